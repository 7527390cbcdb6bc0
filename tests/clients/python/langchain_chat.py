"""What does LangChain show of chats, and of a prompt?"""

from langchain_openai import OpenAI
from langchain_programs import try_all
from shown import QUESTION, URL

prompt = OpenAI(model="abacus", base_url=f"{URL}/v1", api_key="none").invoke(QUESTION)
try_all(lambda effort: {"reasoning_effort": effort, "stream_usage": True}, prompt=prompt)
