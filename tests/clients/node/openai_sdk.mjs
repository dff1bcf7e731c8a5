// OpenAI's SDK for Node.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ maxRetries: 0 });
const model = "echo";
const says = (content) => [{ role: "user", content }];
const Place = z.object({ city: z.string(), people: z.number().int() });
const place = { city: "Bern", people: 137995 };
const call = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>';

test("streams", async () => {
  const messages = says("The sea is déjà vu.");
  const stream = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
  const pieces = [];
  stream.on("content", (piece) => pieces.push(piece));
  const streamed = await stream.finalChatCompletion();
  const whole = await client.chat.completions.create({ model, messages });
  assert(pieces.length > 1);
  assert.equal(pieces.join(""), "The sea is déjà vu.");
  assert.equal(whole.choices[0].message.content, "The sea is déjà vu.");
  assert.equal(streamed.choices[0].message.content, "The sea is déjà vu.");
  assert.deepEqual(streamed.usage, whole.usage);
});

test("parses answers of a schema", async () => {
  const done = await client.chat.completions.parse({
    model,
    messages: says(JSON.stringify(place)),
    response_format: zodResponseFormat(Place, "place"),
  });
  assert.deepEqual(done.choices[0].message.parsed, place);
});

test("runs tools until there is an answer", async () => {
  const look = zodFunction({
    name: "look",
    parameters: z.object({ city: z.string() }),
    function: ({ city }) => `18 degrees in ${city}`,
  });
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({ model, messages: says(call), tools: [look], stream });
    assert.equal(await runner.finalContent(), "18 degrees in Bern");
  }
});

test("completions, embeddings and models", async () => {
  const texts = [];
  for await (const chunk of await client.completions.create({ model, prompt: "one two", stream: true })) {
    texts.push(chunk.choices[0].text);
  }
  assert.equal(texts.join(""), "one two");
  const packed = await client.embeddings.create({ model, input: "a" }); // base64, which the SDK unpacks
  const plain = await client.embeddings.create({ model, input: "a", encoding_format: "float" });
  packed.data[0].embedding.forEach((x, at) => assert(Math.abs(x - plain.data[0].embedding[at]) < 1e-6));
  assert.equal((await client.models.retrieve(model)).id, model);
});

test("responses", async () => {
  const pieces = [];
  const stream = client.responses.stream({ model, input: "The sea is déjà vu." });
  stream.on("response.output_text.delta", ({ delta }) => pieces.push(delta));
  assert.equal((await stream.finalResponse()).output_text, "The sea is déjà vu.");
  assert.equal(pieces.join(""), "The sea is déjà vu.");
  const parsed = await client.responses.parse({
    model,
    input: JSON.stringify(place),
    text: { format: zodTextFormat(Place, "place") },
  });
  assert.deepEqual(parsed.output_parsed, place);
});

test("errors are the SDK's", async () => {
  const wrong = client.chat.completions.create({ model, messages: says("a"), temperature: 9 });
  await assert.rejects(wrong, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});
