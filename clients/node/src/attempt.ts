// One generation on one worker: by a Generate call of its own, or by a stream of a session.
import type { ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import { MeshError, fromCall } from "./errors.js";
import type { GenerateResponse, StreamEvent } from "./wire.js";

// Events in order, and then an end: `next` waits for them. Whoever reads takes them one by one.
export class Mailbox<T> {
  private readonly items: T[] = [];
  private failure: MeshError | null = null;
  private wake: (() => void) | null = null;

  put(item: T): void {
    this.items.push(item);
    this.wake?.();
  }

  fail(error: MeshError): void {
    this.failure ??= error;
    this.wake?.();
  }

  // The next one; throws what it ended with, once all that came before has been taken.
  async next(): Promise<T> {
    for (;;) {
      const item = this.items.shift();
      if (item !== undefined) return item;
      if (this.failure) throw this.failure;
      await new Promise<void>((resolve) => (this.wake = resolve));
      this.wake = null;
    }
  }
}

export interface Attempt {
  // The next event. Throws MeshError when the worker refuses, is lost or drains.
  next(): Promise<StreamEvent | GenerateResponse>;
  // So many tokens were read: the worker may send as many more.
  grant(tokens: number): void;
  // End it, whatever its state.
  close(): void;
}

// A Generate call. It has no credits: a call that nobody reads is paused, and HTTP/2 holds the worker up.
export class PlainCall implements Attempt {
  private readonly mailbox = new Mailbox<GenerateResponse>();

  constructor(private readonly call: ClientReadableStream<GenerateResponse>) {
    call.on("data", (event: GenerateResponse) => {
      this.mailbox.put(event);
      call.pause();
    });
    call.on("error", (error: ServiceError) => this.mailbox.fail(fromCall(error)));
    call.on("end", () => this.mailbox.fail(new MeshError("worker_lost", "the worker ended the call early")));
  }

  async next(): Promise<GenerateResponse> {
    this.call.resume();
    return await this.mailbox.next();
  }

  grant(): void {}

  close(): void {
    this.call.cancel();
  }
}
