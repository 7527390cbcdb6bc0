"""What does LiteLLM's library show of Anthropic's messages?"""

from litellm_programs import try_all
from shown import URL

# Of an unknown model, LiteLLM takes no field for it.
try_all("anthropic", URL, lambda effort: {"extra_headers": {"X-Reasoning-Budget": effort}})
