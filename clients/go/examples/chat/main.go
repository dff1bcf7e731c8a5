// Command chat prints an answer: bin/chat "Tell me a story about a fox."     beside `make up`
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	mesh "inference-mesh/clients/go"
	pb "inference-mesh/clients/go/gen/meshv1"
)

func ask(text string) *pb.GenerateRequest {
	part := &pb.ContentPart{Part: &pb.ContentPart_Text{Text: text}}
	message := &pb.ChatMessage{Role: "user", Parts: []*pb.ContentPart{part}}
	chat := &pb.ChatPrompt{Messages: []*pb.ChatMessage{message}}
	return &pb.GenerateRequest{Model: "mesh-demo", Prompt: &pb.GenerateRequest_Chat{Chat: chat}}
}

func main() {
	etcd, text := os.Getenv("MESH_ETCD"), "Tell me a story about a fox."
	if etcd == "" {
		etcd = "127.0.0.1:12379" // the registry of `mesh up`
	}
	if len(os.Args) > 1 {
		text = os.Args[1]
	}
	client, err := mesh.New(mesh.Options{Etcd: etcd})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	generation := client.Generate(context.Background(), ask(text))
	defer generation.Close()
	for {
		event, err := generation.Next()
		if err == io.EOF {
			fmt.Println()
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.GetDelta().GetText())
	}
}
