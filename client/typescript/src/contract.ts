// What both entries of the package export: the client, its errors, and the messages and services of the contract.

export { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
export {
  MAX_BATCH,
  UsageClient,
  type BatchOptions,
  type BatchOutcome,
  type BatchResult,
  type ClientOptions,
  type Corrected,
  type Correction,
  type Counted,
  type Get,
  type Increment,
  type Quantity,
} from "./client.js";
export { UsageError, type ErrorKind, type FieldViolation, type Reason } from "./error.js";
export * from "./gen/usage/v1/access_service_pb.js";
export * from "./gen/usage/v1/account_service_pb.js";
export * from "./gen/usage/v1/error_reason_pb.js";
export * from "./gen/usage/v1/operations_service_pb.js";
export * from "./gen/usage/v1/period_pb.js";
export * from "./gen/usage/v1/report_run_pb.js";
export * from "./gen/usage/v1/sign_off_pb.js";
export * from "./gen/usage/v1/usage_report_pb.js";
export {
  Granularity,
  IncrementOutcome,
  InvoiceFinding,
  UsageService,
  type GetResponse,
  type Meter,
  type MeterUsage,
  type Quantities,
  type UsagePoint,
} from "./gen/usage/v1/usage_service_pb.js";
export type { Retry } from "./retry.js";
