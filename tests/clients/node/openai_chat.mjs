// What does OpenAI's client for JavaScript show of chats, and of a prompt?
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { add, caught, question, show, url } from "./shown.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const chat = { model: "abacus", messages: [{ role: "user", content: question }] };
const tokens = (usage) => [
  usage.prompt_tokens,
  usage.completion_tokens,
  usage.completion_tokens_details.reasoning_tokens,
];

const { data: whole, response } = await client.chat.completions
  .create({ ...chat, reasoning_effort: "low" })
  .withResponse();

const streamed = await client.chat.completions
  .stream({ ...chat, stream_options: { include_usage: true } })
  .finalChatCompletion();

const tool = {
  name: "add",
  parameters: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } } },
  parse: JSON.parse,
  function: (numbers) => String(add(numbers)),
};
const runner = client.chat.completions.runTools({ ...chat, tools: [{ type: "function", function: tool }] });

const format = zodResponseFormat(z.object({ total: z.number() }), "sum");
const parsed = await client.chat.completions.parse({ ...chat, response_format: format });

const prompted = await client.completions.create({ model: "abacus", prompt: question });

show({
  prompt: prompted.choices[0].text,
  whole: whole.choices[0].message.content,
  thought: whole.choices[0].message.reasoning,
  usage: tokens(whole.usage),
  budget: response.headers.get("x-laconic-budget"),
  stream: streamed.choices[0].message.content,
  stream_usage: tokens(streamed.usage),
  tool: await runner.finalContent(),
  object: parsed.choices[0].message.parsed,
  unknown: await caught(() => client.chat.completions.create({ ...chat, model: "nobody" })),
  refused: await caught(() => client.chat.completions.create({ ...chat, reasoning_effort: "lots" })),
});
