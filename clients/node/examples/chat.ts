// node dist/examples/chat.js "Tell me a story about a fox."        beside `make up`
import { MeshClient } from "../src/index.js";

const mesh = new MeshClient({ etcd: process.env.MESH_ETCD ?? "127.0.0.1:12379" });
const text = process.argv[2] ?? "Tell me a story about a fox.";
const request = {
  model: "mesh-demo",
  chat: { messages: [{ role: "user", parts: [{ text }] }] },
  sampling: { max_tokens: 200 },
};
for await (const event of mesh.generate(request)) {
  if (event.delta) process.stdout.write(event.delta.text);
  if (event.finished) console.log(`\n${event.finished.usage?.completion_tokens} tokens`);
}
mesh.close();
