// What does Vercel's AI SDK show with its provider for any API like OpenAI's?
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

import { question, url } from "./shown.mjs";
import { tryAll } from "./vercel.mjs";

const provider = createOpenAICompatible({
  name: "laconic",
  baseURL: `${url}/v1`,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const prompted = await generateText({ model: provider.completionModel("abacus"), prompt: question });
await tryAll(provider, (reasoningEffort) => ({ laconic: { reasoningEffort } }), { prompt: prompted.text });
