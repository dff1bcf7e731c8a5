package mesh

import (
	"context"
	"testing"

	pb "inference-mesh/clients/go/gen/meshv1"
)

func TestClosingTwiceLeavesAWorkerOnce(t *testing.T) {
	client, err := New(Options{Workers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	one := client.workers.known["127.0.0.1:1"]
	generation := client.Generate(context.Background(), &pb.GenerateRequest{Model: "m"})
	generation.worker = one
	one.add(1)
	generation.Close()
	generation.Close()
	if one.live != 0 {
		t.Fatalf("%d generations are left on the worker", one.live)
	}
}
