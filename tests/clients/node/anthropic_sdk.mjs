// Anthropic's SDK for Node.

import assert from "node:assert/strict";
import { test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod";

const client = new Anthropic({ maxRetries: 0 });
const call = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>';
const asked = (content, more = {}) => ({
  model: "echo",
  max_tokens: 500,
  messages: [{ role: "user", content }],
  ...more,
});

test("streams", async () => {
  const pieces = [];
  const stream = client.messages.stream(asked("The sea is déjà vu.")).on("text", (piece) => pieces.push(piece));
  const streamed = await stream.finalMessage();
  const whole = await client.messages.create(asked("The sea is déjà vu."));
  assert(pieces.length > 1);
  assert.equal(pieces.join(""), "The sea is déjà vu.");
  assert.deepEqual(streamed.content, whole.content);
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
});

test("runs tools until there is an answer", async () => {
  const look = betaZodTool({
    name: "look",
    description: "The weather somewhere.",
    inputSchema: z.object({ city: z.string() }),
    run: ({ city }) => `18 degrees in ${city}`,
  });
  for (const stream of [false, true]) {
    const last = await client.beta.messages.toolRunner(asked(call, { tools: [look], stream })).runUntilDone();
    assert.equal(last.content[0].text, "18 degrees in Bern");
  }
});

test("counts tokens; errors are the SDK's", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: "echo", messages: asked("one two").messages });
  assert(input_tokens > 2);
  await assert.rejects(client.messages.create(asked("a", { temperature: 9 })), Anthropic.BadRequestError);
});
