// The generated types by short names, and the stubs, loaded from the .proto files beside the compiled code.
import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ProtoGrpcType as Inference } from "../gen/inference";
import type { ProtoGrpcType as Kv } from "../gen/kv";
import type { InferenceServiceClient } from "../gen/mesh/v1/InferenceService";
import type { KVClient } from "../gen/etcdserverpb/KV";

export type { InferenceServiceClient } from "../gen/mesh/v1/InferenceService";
export type { KVClient } from "../gen/etcdserverpb/KV";
export type { ChoiceFinished__Output as ChoiceFinished } from "../gen/mesh/v1/ChoiceFinished";
export type { Delta__Output as Delta } from "../gen/mesh/v1/Delta";
export type { Finished__Output as Finished } from "../gen/mesh/v1/Finished";
export type { GenerateRequest } from "../gen/mesh/v1/GenerateRequest";
export type { GenerateResponse__Output as GenerateResponse } from "../gen/mesh/v1/GenerateResponse";
export type { SessionRequest } from "../gen/mesh/v1/SessionRequest";
export type { SessionResponse__Output as SessionResponse } from "../gen/mesh/v1/SessionResponse";
export type { Started__Output as Started } from "../gen/mesh/v1/Started";
export type { StreamEvent__Output as StreamEvent } from "../gen/mesh/v1/StreamEvent";
export type { Usage__Output as Usage } from "../gen/mesh/v1/Usage";

const folder = fileURLToPath(new URL("../protos", import.meta.url));
const definition = loader.loadSync(["mesh/v1/inference.proto", "kv.proto", "status.proto"], {
  includeDirs: [folder],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const loaded = grpc.loadPackageDefinition(definition) as unknown as Inference & Kv;

// Keepalive notices a peer that was stopped, which the end of a connection does not tell.
const options: grpc.ChannelOptions = {
  "grpc.keepalive_time_ms": 2_000,
  "grpc.keepalive_timeout_ms": 2_000,
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
  "grpc.enable_retries": 0,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
};

export function inference(address: string, credentials: grpc.ChannelCredentials): InferenceServiceClient {
  return new loaded.mesh.v1.InferenceService(address, credentials, options);
}

export function kv(address: string, credentials: grpc.ChannelCredentials): KVClient {
  return new loaded.etcdserverpb.KV(address, credentials);
}

// A message type's own decoder, for messages that no call brings.
export function decoder<T>(name: string): (bytes: Buffer) => T {
  const type = definition[name] as loader.MessageTypeDefinition<object, object>;
  return (bytes) => type.deserialize(bytes) as T;
}
