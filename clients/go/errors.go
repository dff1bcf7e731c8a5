package mesh

import (
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "inference-mesh/clients/go/gen/meshv1"
)

// Error is an error of the mesh: a stable code (the table of mesh/errors.py), a sentence for people, and the field at
// fault if there is one.
type Error struct {
	Code       string
	Message    string
	Param      string
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func newError(code, format string, values ...interface{}) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, values...)}
}

// Whether another worker may succeed with the same request. The last one: this worker has just let the model go.
var elsewhere = map[string]bool{
	"overloaded": true, "engine_failed": true, "worker_lost": true, "draining": true, "wrong_worker": true,
	"wrong_model": true, "protocol_error": true, "model_not_found": true,
}

var byStatus = map[codes.Code]string{
	codes.InvalidArgument:   "invalid_request",
	codes.Unauthenticated:   "unauthorized",
	codes.PermissionDenied:  "forbidden",
	codes.NotFound:          "model_not_found",
	codes.ResourceExhausted: "overloaded",
	codes.Unimplemented:     "unsupported",
	codes.DeadlineExceeded:  "deadline_exceeded",
	codes.Unavailable:       "worker_lost",
	codes.Canceled:          "worker_lost",
}

// The error behind a failed call: from its ErrorInfo if it has one, else from its status code.
func fromCall(err error) *Error {
	if known, ok := err.(*Error); ok {
		return known
	}
	given, ok := status.FromError(err)
	if !ok {
		return newError("worker_lost", "%v", err) // io.EOF: the worker ended the call early
	}
	for _, detail := range given.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "mesh" {
			return &Error{
				Code:       info.Reason,
				Message:    given.Message(),
				Param:      info.Metadata["param"],
				RetryAfter: seconds(info.Metadata["retry_after"]),
			}
		}
	}
	code := byStatus[given.Code()]
	if code == "" {
		code = "engine_failed"
	}
	return newError(code, "%s", given.Message())
}

func fromFailure(failure *pb.Failure) *Error {
	after := time.Duration(failure.GetRetryAfter() * float64(time.Second))
	return &Error{Code: failure.Code, Message: failure.Message, Param: failure.Param, RetryAfter: after}
}

func seconds(text string) time.Duration {
	value, _ := strconv.ParseFloat(text, 64)
	return time.Duration(value * float64(time.Second))
}
