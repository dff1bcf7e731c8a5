// The Vercel AI SDK, by its provider for APIs like OpenAI's and by the one for OpenAI.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL;
const compatible = createOpenAICompatible({
  name: "mesh",
  baseURL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL });
const models = { compatible: compatible("echo"), chat: openai.chat("echo"), responses: openai("echo") };
const schema = z.object({ city: z.string(), people: z.number().int() });
const place = { city: "Bern", people: 137995 };
const call = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>';
const look = tool({
  description: "The weather somewhere.",
  inputSchema: z.object({ city: z.string() }),
  execute: ({ city }) => `18 degrees in ${city}`,
});

for (const [name, model] of Object.entries(models)) {
  test(`${name}: streams`, async () => {
    const streamed = streamText({ model, prompt: "The sea is déjà vu." });
    const pieces = [];
    for await (const piece of streamed.textStream) pieces.push(piece);
    const whole = await generateText({ model, prompt: "The sea is déjà vu." });
    assert(pieces.length > 1);
    assert.equal(pieces.join(""), whole.text);
    assert.equal(whole.text, "The sea is déjà vu.");
    assert.equal(await streamed.finishReason, "stop");
    assert.equal((await streamed.usage).totalTokens, whole.usage.totalTokens);
  });

  test(`${name}: calls tools`, async () => {
    const options = { model, prompt: call, tools: { look }, stopWhen: stepCountIs(3) };
    assert.match((await generateText(options)).text, /18 degrees in Bern/);
    assert.match(await streamText(options).text, /18 degrees in Bern/);
  });

  test(`${name}: answers of a schema`, async () => {
    const options = { model, schema, prompt: JSON.stringify(place) };
    assert.deepEqual((await generateObject(options)).object, place);
    const parts = [];
    for await (const part of streamObject(options).partialObjectStream) parts.push(part);
    assert(parts.length > 1);
    assert.deepEqual(parts.at(-1), place);
  });
}

test("embeds", async () => {
  const { embedding } = await embed({ model: compatible.textEmbeddingModel("echo"), value: "a" });
  assert.equal(embedding.length, 64);
});
