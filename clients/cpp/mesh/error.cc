#include "mesh/error.h"

#include <map>
#include <set>

#include "status.pb.h"

namespace mesh {
namespace {

const char* code_of(grpc::StatusCode code) {
  static const std::map<grpc::StatusCode, const char*> codes = {
      {grpc::StatusCode::INVALID_ARGUMENT, "invalid_request"},
      {grpc::StatusCode::UNAUTHENTICATED, "unauthorized"},
      {grpc::StatusCode::PERMISSION_DENIED, "forbidden"},
      {grpc::StatusCode::NOT_FOUND, "model_not_found"},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, "overloaded"},
      {grpc::StatusCode::UNIMPLEMENTED, "unsupported"},
      {grpc::StatusCode::DEADLINE_EXCEEDED, "deadline_exceeded"},
      {grpc::StatusCode::UNAVAILABLE, "worker_lost"},
      {grpc::StatusCode::CANCELLED, "worker_lost"},
      {grpc::StatusCode::OK, "worker_lost"},  // the worker ended the call early
  };
  auto found = codes.find(code);
  return found == codes.end() ? "engine_failed" : found->second;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

Error Error::from_call(const grpc::Status& status) {
  clients::v1::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      clients::v1::ErrorInfo info;
      if (ends_with(detail.type_url(), "/google.rpc.ErrorInfo") && info.ParseFromString(detail.value()) &&
          info.domain() == "mesh") {
        auto& facts = *info.mutable_metadata();
        double after = facts.count("retry_after") ? std::stod(facts["retry_after"]) : 0;
        return Error(info.reason(), status.error_message(), facts["param"], after);
      }
    }
  }
  std::string message = status.ok() ? "the worker ended the call early" : status.error_message();
  return Error(code_of(status.error_code()), message);
}

Error Error::from_failure(const v1::Failure& failure) {
  return Error(failure.code(), failure.message(), failure.param(), failure.retry_after());
}

bool Error::retry_elsewhere() const {
  // The last one: the registry said that the model is there, and this worker has just let it go.
  static const std::set<std::string> codes = {"overloaded",   "engine_failed", "worker_lost",    "draining",
                                              "wrong_worker", "wrong_model",   "protocol_error", "model_not_found"};
  return codes.count(code) > 0;
}

}  // namespace mesh
