"""What does LangChain show of responses?"""

from langchain_programs import try_all

try_all(lambda effort: {"use_responses_api": True, "reasoning": {"effort": effort} if effort else None})
