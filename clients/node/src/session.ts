// One multiplexed stream with one worker: many generations, one message per engine step, credits per generation. A
// worker that is silent for longer than it promised to be is dead or frozen, and the session ends.
import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";
import type { Attempt } from "./attempt.js";
import { Mailbox } from "./attempt.js";
import { MeshError, fromCall } from "./errors.js";
import type { GenerateRequest, InferenceServiceClient, SessionRequest, SessionResponse, StreamEvent } from "./wire.js";

const OPEN_LIMIT = 5_000; // milliseconds
const LOOKS = 8; // per heartbeat

export class Session {
  lost: MeshError | null = null;
  draining = false;
  private readonly call: ClientDuplexStream<SessionRequest, SessionResponse>;
  private readonly streams = new Map<number, Stream>();
  private lastId = 0;
  private heard = false;
  private quiet = 0;
  private timer: NodeJS.Timeout;
  private readonly settled: Promise<void>;
  private settle: () => void = () => {};

  // `workerId` and `incarnation` are those of the registry: another process at the address is refused.
  constructor(client: InferenceServiceClient, name: string, workerId: string, incarnation: string) {
    this.settled = new Promise((resolve) => (this.settle = resolve));
    this.timer = setTimeout(() => this.end(new MeshError("worker_lost", "the session did not open in time")), OPEN_LIMIT);
    this.call = client.Session();
    this.call.on("data", (message: SessionResponse) => this.receive(message));
    this.call.on("error", (error: ServiceError) => this.end(fromCall(error)));
    this.call.on("end", () => this.end(new MeshError("worker_lost", "the worker ended the session")));
    this.send({ open: { client: name, expected_worker_id: workerId, expected_incarnation: incarnation } });
  }

  // Wait until generations can be started. Throws MeshError if that cannot be.
  async opened(): Promise<void> {
    await this.settled;
    if (this.lost) throw this.lost;
  }

  // Start a generation of which the worker may send `credit` tokens before it is granted more.
  start(request: GenerateRequest, credit: number): Stream {
    const stream = new Stream(this, ++this.lastId);
    this.streams.set(stream.id, stream);
    this.send({ start: { stream_id: stream.id, request, credit } });
    if (this.lost) stream.fail(this.lost);
    return stream;
  }

  send(command: SessionRequest): void {
    if (!this.lost) this.call.write(command);
  }

  forget(id: number): boolean {
    return this.streams.delete(id);
  }

  close(): void {
    this.end(new MeshError("worker_lost", "the session was closed"));
  }

  private receive(message: SessionResponse): void {
    this.heard = true;
    if (message.opened) {
      clearTimeout(this.timer);
      this.timer = setInterval(() => this.look(), ((message.opened.heartbeat || 2) * 1000) / LOOKS);
      this.settle();
    }
    for (const event of message.events) {
      this.streams.get(event.stream_id)?.take(event);
    }
    const began = message.draining && !this.draining;
    this.draining = message.draining; // which may be called off
    if (began) {
      for (const stream of this.streams.values()) stream.drain();
    }
  }

  // Counted, not timed: a loop that was busy elsewhere for long does not make the worker silent.
  private look(): void {
    this.quiet = this.heard ? 0 : this.quiet + 1;
    this.heard = false;
    if (this.quiet > LOOKS) this.end(new MeshError("worker_lost", "the worker is silent"));
  }

  private end(error: MeshError): void {
    if (this.lost) return;
    this.lost = error;
    clearTimeout(this.timer);
    for (const stream of this.streams.values()) stream.fail(error);
    this.streams.clear();
    this.settle();
    this.call.cancel();
  }
}

// One generation of a session.
export class Stream implements Attempt {
  // Set by the owner: whether another worker could go on, asked when this one begins to drain.
  leaves: () => boolean = () => false;
  private readonly mailbox = new Mailbox<StreamEvent>();

  constructor(
    private readonly session: Session,
    readonly id: number,
  ) {}

  next(): Promise<StreamEvent> {
    return this.mailbox.next();
  }

  grant(tokens: number): void {
    this.session.send({ credit: { stream_id: this.id, tokens } });
  }

  close(): void {
    if (this.session.forget(this.id)) this.session.send({ cancel: { stream_id: this.id } });
  }

  take(event: StreamEvent): void {
    if (event.finished || event.failed) this.session.forget(this.id);
    if (!event.failed) return this.mailbox.put(event);
    const { code, message, param, retry_after } = event.failed;
    this.fail(new MeshError(code, message, param, retry_after));
  }

  fail(error: MeshError): void {
    this.mailbox.fail(error);
  }

  drain(): void {
    if (this.leaves()) this.fail(new MeshError("draining", "the worker drains"));
  }
}
