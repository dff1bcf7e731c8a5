// The workers, listed in the registry by etcd's own gRPC API (which the registry of `mesh up` serves too), or given by
// their addresses.
import { setTimeout as sleep } from "node:timers/promises";
import type { ChannelCredentials, ServiceError } from "@grpc/grpc-js";
import type { Attempt } from "./attempt.js";
import { PlainCall } from "./attempt.js";
import { MeshError, fromCall } from "./errors.js";
import { Session } from "./session.js";
import { inference, kv, type GenerateRequest, type InferenceServiceClient, type KVClient } from "./wire.js";

const PREFIX = "/mesh/v1/workers/";
const LISTING_LIMIT = 5_000; // milliseconds
const FRESH = 1_000; // milliseconds for which a listing counts
const KNOWN_LIMIT = 500; // milliseconds for which a listing is waited for where workers are known
const GRACE = 30_000; // milliseconds for which a worker that is not listed any more is a last choice

// The value of a worker's key, as registry.proto tells; fields at their defaults are left out.
export interface WorkerRecord {
  worker_id: string;
  incarnation?: string;
  address: string;
  state?: string;
  slots?: number;
  models?: { name: string; fingerprint?: string; capabilities?: string[] }[];
}

export class Worker {
  // Generations of this client on it.
  live = 0;
  // Milliseconds of `performance.now()` until which it is not asked, as it had no room or could not be reached.
  restsUntil = 0;
  // Since when (by the same clock) the registry does not list it: one that came back empty has not lost the workers.
  vanishedAt: number | null = null;
  private pause = 100;
  private client: InferenceServiceClient | null = null;
  private session: Session | null = null;

  constructor(
    public record: WorkerRecord,
    private readonly credentials: ChannelCredentials,
  ) {}

  get ready(): boolean {
    const draining = this.record.state === "WORKER_STATE_DRAINING" || this.session?.draining;
    return !draining && this.restsUntil <= performance.now();
  }

  serves(model: string, fingerprint: string): boolean {
    if (!this.record.models) return true; // only its address is known
    const served = this.record.models.find((each) => each.name === model);
    if (!served || !fingerprint) return served !== undefined;
    return served.fingerprint === fingerprint && (served.capabilities ?? []).includes("CAPABILITY_RESUME");
  }

  rest(seconds = 0): void {
    this.restsUntil = performance.now() + Math.max(this.pause, seconds * 1000);
    this.pause = Math.min(2_000, this.pause * 2);
  }

  wentWell(): void {
    this.pause = 100;
  }

  async start(request: GenerateRequest, transport: "session" | "generate", credit: number, leaves: () => boolean) {
    this.client ??= inference(this.record.address, this.credentials);
    if (transport === "generate") return new PlainCall(this.client.Generate(request)) as Attempt;
    if (!this.session || this.session.lost) {
      this.session = new Session(this.client, "node", this.record.worker_id, this.record.incarnation ?? "");
    }
    const session = this.session;
    await session.opened();
    const stream = session.start(request, credit);
    stream.leaves = leaves;
    return stream as Attempt;
  }

  close(): void {
    this.session?.close();
    this.client?.close();
  }
}

export class Workers {
  private readonly known = new Map<string, Worker>();
  // Started again since; closed once nothing of ours is on them.
  private left: Worker[] = [];
  private readonly etcd: KVClient | null;
  private listedAt = Number.NEGATIVE_INFINITY;
  private listing: Promise<void> | null = null;
  private away = false; // whether the last listing failed

  constructor(
    etcd: string | undefined,
    addresses: string[],
    private readonly credentials: ChannelCredentials,
    etcdCredentials: ChannelCredentials,
  ) {
    this.etcd = etcd === undefined ? null : kv(etcd.replace(/^https?:\/\//, ""), etcdCredentials);
    for (const address of addresses) this.known.set(address, new Worker({ worker_id: "", address }, credentials));
  }

  get all(): Worker[] {
    return [...this.known.values()];
  }

  // Ask the registry, unless that was done just now. When it is away, what was known stays known, and one that does not
  // answer holds up nobody.
  async refresh(): Promise<void> {
    if (!this.etcd || performance.now() - this.listedAt < FRESH) return;
    this.listing ??= this.list(this.etcd);
    if (this.known.size === 0) return await this.listing;
    const patience = sleep(this.away ? 0 : KNOWN_LIMIT, undefined, { ref: false });
    await Promise.race([this.listing.catch(() => {}), patience]);
  }

  private async list(etcd: KVClient): Promise<void> {
    try {
      this.take(await list(etcd));
      this.away = false;
    } catch (error) {
      this.away = true;
      throw error;
    } finally {
      this.listing = null;
    }
  }

  private take(records: WorkerRecord[]): void {
    const now = (this.listedAt = performance.now());
    for (const record of records) this.note(record);
    const ids = new Set(records.map((record) => record.worker_id));
    for (const [id, worker] of this.known) {
      worker.vanishedAt = ids.has(id) ? null : (worker.vanishedAt ?? now);
      const gone = worker.vanishedAt !== null && now - worker.vanishedAt > GRACE;
      if (gone && worker.live === 0) this.drop(id, worker);
    }
    for (const worker of this.left) if (worker.live === 0) worker.close();
    this.left = this.left.filter((worker) => worker.live > 0);
  }

  close(): void {
    for (const worker of [...this.known.values(), ...this.left]) worker.close();
    this.known.clear();
    this.etcd?.close();
  }

  private note(record: WorkerRecord): void {
    const worker = this.known.get(record.worker_id);
    if (worker?.record.incarnation === record.incarnation) {
      worker!.record = record;
    } else {
      if (worker) this.left.push(worker);
      this.known.set(record.worker_id, new Worker(record, this.credentials));
    }
  }

  private drop(id: string, worker: Worker): void {
    this.known.delete(id);
    worker.close();
  }
}

function list(etcd: KVClient): Promise<WorkerRecord[]> {
  const key = Buffer.from(PREFIX);
  const end = Buffer.from(PREFIX.slice(0, -1) + "0"); // the character after "/"
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + LISTING_LIMIT);
    etcd.Range({ key, range_end: end }, { deadline }, (error: ServiceError | null, answer) => {
      if (error) return reject(new MeshError("no_worker", `etcd does not answer: ${fromCall(error).message}`));
      resolve((answer?.kvs ?? []).flatMap((item) => read(item.value)));
    });
  });
}

// The record in a value; none in what is no record of a worker.
function read(value: Uint8Array | string): WorkerRecord[] {
  try {
    const record = JSON.parse(value.toString()) as WorkerRecord | null;
    return record?.worker_id ? [record] : [];
  } catch {
    return [];
  }
}

