"""What does LiteLLM's library show of chats, and of a prompt?"""

import litellm
from litellm_programs import try_all
from shown import QUESTION, URL

prompt = litellm.text_completion(QUESTION, model="text-completion-openai/abacus", api_base=f"{URL}/v1", api_key="none")
# LiteLLM's provider for vLLM, and so for what speaks its protocol.
try_all("hosted_vllm", f"{URL}/v1", lambda effort: {"reasoning_effort": effort}, prompt=prompt.choices[0].text)
