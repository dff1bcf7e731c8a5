export { MeshClient, type MeshOptions } from "./client.js";
export { MeshError } from "./errors.js";
export { Session, Stream } from "./session.js";
export type { Event } from "./answer.js";
export type { ChoiceFinished, Delta, Finished, GenerateRequest, Started, Usage } from "./wire.js";
export { inference } from "./wire.js";
