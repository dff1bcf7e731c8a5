// Runs the cases of conformance.json and prints what it sees: see ../../README.md.
// node conformance.js FILE ETCD session|generate CASE...
import { readFileSync } from "node:fs";
import { MeshClient, MeshError, type GenerateRequest } from "./index.js";

interface Case {
  name: string;
  request: GenerateRequest;
  cancel_after?: number;
  credit?: number;
}

const [file, etcd, transport, ...names] = process.argv.slice(2) as [string, string, "session" | "generate"];
const cases: Case[] = JSON.parse(readFileSync(file, "utf8")).cases;

// protobuf's JSON: bytes as base64, and without proto-loader's marks of the optional fields that are set.
function plain(key: string, value: unknown): unknown {
  if (key.startsWith("_")) return undefined;
  const { type, data } = (value ?? {}) as { type?: string; data?: number[] };
  return type === "Buffer" ? Buffer.from(data!).toString("base64") : value;
}

function tell(name: string, facts: object): void {
  process.stdout.write(JSON.stringify({ case: name, ...facts }, plain) + "\n");
}

async function run(client: MeshClient, { name, request, cancel_after: limit = Infinity }: Case): Promise<void> {
  let tokens = 0;
  try {
    for await (const { event, ...body } of client.generate(request)) {
      tell(name, { event: { [event!]: body[event!] } });
      tokens += body.delta?.token_ids.length ?? 0;
      if (tokens >= limit) return tell(name, { end: "cancelled" });
    }
    tell(name, { end: "finished" });
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    tell(name, { end: "error", code: error.code, param: error.param, message: error.message });
  }
}

for (const name of names as string[]) {
  const one = cases.find((each) => each.name === name)!;
  const client = new MeshClient({ etcd, transport, ...(one.credit ? { credit: one.credit } : {}) });
  await run(client, one);
  client.close();
}
