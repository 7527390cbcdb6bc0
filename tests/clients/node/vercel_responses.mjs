// What does Vercel's AI SDK show with its provider for OpenAI, which asks for responses?
import { createOpenAI } from "@ai-sdk/openai";

import { url } from "./shown.mjs";
import { tryAll } from "./vercel.mjs";

const provider = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
// `store: false`, or the client refers to what it takes to be stored.
await tryAll(provider, (reasoningEffort) => ({ openai: { reasoningEffort, forceReasoning: true, store: false } }));
