// A client of the workers with the exact failover of the mesh: a generation whose worker is lost, silent or draining goes
// on at another worker of the same fingerprint, at the same token.
import { randomBytes, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, type ChannelCredentials } from "@grpc/grpc-js";
import { Answer, type Event } from "./answer.js";
import type { Attempt } from "./attempt.js";
import { MeshError } from "./errors.js";
import type { GenerateRequest } from "./wire.js";
import { Worker, Workers } from "./workers.js";

const WORKERS_OWN_WORD = 500; // milliseconds

export interface MeshOptions {
  // host:port of the registry, or of etcd.
  etcd?: string;
  // host:port of workers, where there is no registry that one could ask.
  workers?: string[];
  // How to speak to the workers and to etcd; plain text by default.
  credentials?: ChannelCredentials;
  etcdCredentials?: ChannelCredentials;
  // All generations on one stream per worker, or a Generate call for each.
  transport?: "session" | "generate";
  // Tokens that a worker may send ahead of the reader.
  credit?: number;
  // Seconds for which a request waits for a worker, at first and after each fault.
  patience?: number;
  // Workers that may break after they had begun a request.
  attempts?: number;
}

export class MeshClient {
  private readonly workers: Workers;
  private readonly options: Required<Pick<MeshOptions, "transport" | "credit" | "patience" | "attempts">>;

  constructor(options: MeshOptions) {
    if ((options.etcd === undefined) === (options.workers === undefined)) {
      throw new MeshError("invalid_request", "give either 'etcd' or 'workers'", "etcd");
    }
    const plain = credentials.createInsecure();
    const { credentials: own = plain, etcdCredentials = plain } = options;
    this.workers = new Workers(options.etcd, options.workers ?? [], own, etcdCredentials);
    const { transport = "session", credit = 256, patience = 30, attempts = 4 } = options;
    this.options = { transport, credit, patience, attempts };
  }

  // Names of the served models. Needs `etcd`.
  async models(): Promise<string[]> {
    await this.workers.refresh();
    const names = this.workers.all.flatMap((worker) => (worker.record.models ?? []).map((model) => model.name));
    return [...new Set(names)].sort();
  }

  // The events of an answer: started, delta and choice_finished of each choice, finished. Throws MeshError. Leaving the
  // loop cancels it: the worker's rows end within a step.
  async *generate(request: GenerateRequest): AsyncGenerator<Event> {
    const answer = new Answer(prepared(request));
    const search = new Search(this.workers, request, this.options.patience, this.options.attempts);
    while (!answer.done) {
      const worker = await search.find(answer.started?.fingerprint ?? "");
      worker.live += 1;
      try {
        yield* this.attempt(worker, answer, search);
      } catch (error) {
        if (!(error instanceof MeshError)) throw error;
        yield* answer.finishAlone();
        if (answer.done) return;
        if (answer.pinned) throw error;
        search.left(worker, error);
      } finally {
        worker.live -= 1;
      }
    }
  }

  close(): void {
    this.workers.close();
  }

  private async *attempt(worker: Worker, answer: Answer, search: Search): AsyncGenerator<Event> {
    const { transport } = this.options;
    const credit = Math.max(this.options.credit, answer.choices.length * 16);
    const request = search.limit(answer.next(search.asked++));
    const leaves = () => !answer.pinned && search.elsewhere(worker, answer.started?.fingerprint ?? "");
    const attempt: Attempt = await worker.start(request, transport, credit, leaves);
    try {
      while (!answer.done) {
        const event = await search.inTime(attempt.next());
        const fresh = answer.take(event);
        search.began(worker);
        yield* fresh;
        if (event.delta) attempt.grant(event.delta.token_ids.length || (answer.started?.text_only ? 1 : 0));
      }
    } finally {
      attempt.close();
    }
  }
}

// A copy with a name for the logs, and a seed, so that each worker draws the same numbers.
function prepared(request: GenerateRequest): GenerateRequest {
  if (request.resume) throw new MeshError("invalid_request", "'resume' is what this client sends by itself", "resume");
  const copy = { ...request, request_id: request.request_id || randomUUID(), sampling: { ...request.sampling } };
  if (copy.sampling.seed === undefined) {
    copy.sampling.seed = (randomBytes(8).readBigUInt64BE() >> 1n).toString();
    copy.sampling.drawn_seed = true;
  }
  return copy;
}

// The search of one request for a worker, and when it is to be given up.
class Search {
  asked = 0;
  private readonly model: string;
  private readonly deadline: number;
  private until: number;
  private begun = false;
  private failures = 0;
  private last: MeshError | null = null;
  private readonly avoid = new Set<Worker>();
  private readonly never = new Set<Worker>();

  constructor(
    private readonly workers: Workers,
    request: GenerateRequest,
    private readonly patience: number, // seconds
    private readonly attempts: number,
  ) {
    this.model = request.model ?? "";
    this.deadline = performance.now() + (request.deadline_ms ?? Infinity);
    this.until = performance.now() + patience * 1000;
  }

  // The next worker to ask; waits for one. Throws MeshError when there is none in time.
  async find(fingerprint: string): Promise<Worker> {
    this.begun = false;
    for (;;) {
      if (performance.now() > this.deadline) throw new MeshError("deadline_exceeded", "the deadline has passed");
      await this.workers.refresh();
      const worker = this.choose(fingerprint);
      if (worker) return worker;
      const serving = this.workers.all.filter((each) => each.serves(this.model, "") && !this.never.has(each));
      if (!fingerprint && serving.length === 0) {
        throw this.last ?? new MeshError("model_not_found", `no worker serves the model '${this.model}'`, "model");
      }
      if (performance.now() > this.until) {
        throw this.last ?? new MeshError("no_worker", `no worker took the request within ${this.patience} s`);
      }
      await sleep(100);
    }
  }

  // The request for an attempt, which has what is left of the time.
  limit(request: GenerateRequest): GenerateRequest {
    if (this.deadline === Infinity) return request;
    return { ...request, deadline_ms: Math.max(1, Math.floor(this.deadline - performance.now())) };
  }

  // Wait for an event, but not for longer than a little after the deadline, in which the worker may tell by itself.
  async inTime<T>(event: Promise<T>): Promise<T> {
    if (this.deadline === Infinity) return await event;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const error = new MeshError("deadline_exceeded", "the deadline has passed");
      timer = setTimeout(() => reject(error), this.deadline - performance.now() + WORKERS_OWN_WORD);
    });
    try {
      return await Promise.race([event, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  elsewhere(here: Worker, fingerprint: string): boolean {
    const other = this.choose(fingerprint);
    return other !== undefined && other !== here;
  }

  began(worker: Worker): void {
    if (this.begun) return;
    this.begun = true;
    this.until = performance.now() + this.patience * 1000;
    worker.wentWell();
  }

  // An attempt is over without an end. Throws the error if no other attempt would help.
  left(worker: Worker, error: MeshError): void {
    if (!error.retryElsewhere) throw error;
    this.last = error;
    if (error.code === "model_not_found" || error.code === "wrong_model") {
      this.never.add(worker);
      return;
    }
    this.avoid.add(worker);
    worker.rest(error.retryAfter);
    if (this.begun && error.code !== "draining" && ++this.failures >= this.attempts) throw error;
    if (this.begun) this.until = performance.now() + this.patience * 1000;
  }

  // The least busy one, and one that was left, or is not listed any more, only if there is no other.
  private choose(fingerprint: string): Worker | undefined {
    const fit = this.workers.all.filter(
      (worker) => worker.ready && !this.never.has(worker) && worker.serves(this.model, fingerprint),
    );
    const last = (worker: Worker) => (this.avoid.has(worker) ? 1e6 : 0) + (worker.vanishedAt === null ? 0 : 1e5);
    const rank = (worker: Worker) => last(worker) + worker.live / (worker.record.slots || 1);
    return fit
      .map((worker) => ({ worker, rank: rank(worker), draw: Math.random() }))
      .sort((one, other) => one.rank - other.rank || one.draw - other.draw)[0]?.worker;
  }
}
