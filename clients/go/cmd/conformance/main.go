// Runs the cases of conformance.json and prints what it sees: see ../../../README.md.
// conformance FILE ETCD session|generate CASE...
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"math"
	"os"

	"google.golang.org/protobuf/encoding/protojson"

	mesh "inference-mesh/clients/go"
	pb "inference-mesh/clients/go/gen/meshv1"
)

type conformanceCase struct {
	Name        string          `json:"name"`
	Request     json.RawMessage `json:"request"`
	CancelAfter int             `json:"cancel_after"`
	Credit      uint32          `json:"credit"`
}

type line struct {
	Case    string          `json:"case"`
	Event   json.RawMessage `json:"event,omitempty"`
	End     string          `json:"end,omitempty"`
	Code    *string         `json:"code,omitempty"`
	Param   *string         `json:"param,omitempty"`
	Message string          `json:"message,omitempty"`
}

var out = json.NewEncoder(os.Stdout)

func tell(what line) {
	if err := out.Encode(what); err != nil {
		log.Fatal(err)
	}
}

func run(client *mesh.Client, one conformanceCase) {
	request := &pb.GenerateRequest{}
	if err := protojson.Unmarshal(one.Request, request); err != nil {
		log.Fatal(err)
	}
	if one.CancelAfter == 0 {
		one.CancelAfter = math.MaxInt32
	}
	generation := client.Generate(context.Background(), request)
	defer generation.Close()
	for tokens := 0; tokens < one.CancelAfter; {
		event, err := generation.Next()
		if err == io.EOF {
			tell(line{Case: one.Name, End: "finished"})
			return
		}
		if failure := mesh.AsError(err); failure != nil {
			tell(line{Case: one.Name, End: "error", Code: &failure.Code, Param: &failure.Param, Message: failure.Message})
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		body, err := protojson.Marshal(event)
		if err != nil {
			log.Fatal(err)
		}
		tell(line{Case: one.Name, Event: body})
		tokens += len(event.GetDelta().GetTokenIds())
	}
	tell(line{Case: one.Name, End: "cancelled"})
}

func main() {
	log.SetFlags(0)
	file, etcd, transport, names := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	text, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	var all struct {
		Cases []conformanceCase `json:"cases"`
	}
	if err := json.Unmarshal(text, &all); err != nil {
		log.Fatal(err)
	}
	for _, name := range names {
		for _, one := range all.Cases {
			if one.Name == name {
				options := mesh.Options{Etcd: etcd, PlainCalls: transport == "generate", Credit: one.Credit}
				client, err := mesh.New(options)
				if err != nil {
					log.Fatal(err)
				}
				run(client, one)
				client.Close()
			}
		}
	}
}
