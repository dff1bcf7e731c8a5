// An error of the mesh.
#pragma once

#include <grpcpp/grpcpp.h>

#include <stdexcept>
#include <string>

#include "mesh/v1/inference.pb.h"

namespace mesh {

// A stable code (the table of mesh/errors.py), a sentence for people, and the field at fault if there is one.
class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message, std::string param = "", double retry_after = 0)
      : std::runtime_error(message), code(std::move(code)), param(std::move(param)), retry_after(retry_after) {}

  // The error behind a failed call: from its ErrorInfo if it has one, else from its status code.
  static Error from_call(const grpc::Status& status);
  static Error from_failure(const v1::Failure& failure);

  // Whether another worker may succeed with the same request.
  bool retry_elsewhere() const;

  std::string code;
  std::string param;
  double retry_after;  // seconds
};

}  // namespace mesh
