// A conversation of two turns, streamed: node chat.mjs [first question] [second question]
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const model = process.env.MODEL ?? "mesh-demo";
const asked = process.argv.slice(2);
const questions = asked.length ? asked : ["Hello! What can you do?", "Tell me a story about a fox."];
const messages = [];
for (const content of questions) {
  messages.push({ role: "user", content });
  let answer = "";
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, temperature: 0 })) {
    const piece = chunk.choices[0].delta.content ?? "";
    process.stdout.write(piece);
    answer += piece;
  }
  console.log();
  messages.push({ role: "assistant", content: answer });
}
