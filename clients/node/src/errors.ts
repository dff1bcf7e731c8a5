// Errors of the mesh: a stable code (the table of mesh/errors.py), a sentence, and the field at fault if there is one.
import type { ServiceError } from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";
import type { Status__Output } from "../gen/mesh/clients/v1/Status";
import type { ErrorInfo__Output } from "../gen/mesh/clients/v1/ErrorInfo";
import { decoder } from "./wire.js";

const elsewhere = new Set([
  "overloaded",
  "engine_failed",
  "worker_lost",
  "draining",
  "wrong_worker",
  "wrong_model",
  "protocol_error",
  "model_not_found", // the registry said that it is there: this worker has just let it go
]);

const byStatus: Record<number, string> = {
  [status.INVALID_ARGUMENT]: "invalid_request",
  [status.UNAUTHENTICATED]: "unauthorized",
  [status.PERMISSION_DENIED]: "forbidden",
  [status.NOT_FOUND]: "model_not_found",
  [status.RESOURCE_EXHAUSTED]: "overloaded",
  [status.UNIMPLEMENTED]: "unsupported",
  [status.DEADLINE_EXCEEDED]: "deadline_exceeded",
  [status.UNAVAILABLE]: "worker_lost",
  [status.CANCELLED]: "worker_lost",
};

export class MeshError extends Error {
  override name = "MeshError";

  constructor(
    readonly code: string,
    message: string,
    readonly param = "",
    readonly retryAfter?: number, // seconds
  ) {
    super(message);
  }

  // Whether another worker may succeed with the same request.
  get retryElsewhere(): boolean {
    return elsewhere.has(this.code);
  }
}

const decodeStatus = decoder<Status__Output>("mesh.clients.v1.Status");
const decodeInfo = decoder<ErrorInfo__Output>("mesh.clients.v1.ErrorInfo");

// The error behind a failed call: from its ErrorInfo if it has one, else from its status code.
export function fromCall(error: ServiceError): MeshError {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (details instanceof Buffer) {
    for (const detail of decodeStatus(details).details) {
      if (detail.type_url.endsWith("/google.rpc.ErrorInfo")) {
        const info = decodeInfo(Buffer.from(detail.value as Uint8Array));
        const { param, retry_after: after } = info.metadata;
        if (info.domain === "mesh") {
          return new MeshError(info.reason, error.details, param, after ? Number(after) : undefined);
        }
      }
    }
  }
  return new MeshError(byStatus[error.code] ?? "engine_failed", error.details || error.message);
}
