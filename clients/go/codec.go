package mesh

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// codec encodes messages by google.golang.org/protobuf, as gRPC does by itself from version 1.34 on; Debian's 1.33 knows
// the messages of an older generator only.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(value interface{}) ([]byte, error) {
	message, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", value)
	}
	return proto.Marshal(message)
}

func (codec) Unmarshal(data []byte, value interface{}) error {
	message, ok := value.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", value)
	}
	return proto.Unmarshal(data, message)
}
