// Package mesh is a gRPC client of the workers with the exact failover of the mesh: a generation whose worker is lost,
// silent or draining goes on at another worker of the same fingerprint, at the same token.
package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	pb "inference-mesh/clients/go/gen/meshv1"
)

// After a deadline the worker may tell for so long that it has passed.
const workersOwnWord = 500 * time.Millisecond

// Options says where the workers are, and when a request is given up. Give either Etcd or Workers.
type Options struct {
	// host:port of the registry, or of etcd.
	Etcd string
	// host:port of workers, where there is no registry that one could ask.
	Workers []string
	// How to speak to the workers and to etcd; nil is plain text.
	Credentials, EtcdCredentials credentials.TransportCredentials
	// A Generate call for each generation, instead of one session per worker.
	PlainCalls bool
	// Tokens that a worker may send ahead of the reader; 256 if zero.
	Credit uint32
	// How long a request waits for a worker, at first and after each fault; 30 s if zero.
	Patience time.Duration
	// Workers that may break after they had begun a request; 4 if zero.
	Attempts int
}

// Client is safe for use by several goroutines.
type Client struct {
	options Options
	workers workers
}

// New makes a client; nothing is asked yet.
func New(options Options) (*Client, error) {
	if (options.Etcd == "") == (len(options.Workers) == 0) {
		return nil, newError("invalid_request", "give either Etcd or Workers")
	}
	if options.Credit == 0 {
		options.Credit = 256
	}
	if options.Patience == 0 {
		options.Patience = 30 * time.Second
	}
	if options.Attempts == 0 {
		options.Attempts = 4
	}
	c := &Client{options: options, workers: workers{known: map[string]*worker{}}}
	for _, address := range options.Workers {
		c.workers.known[address] = newWorker(&pb.WorkerRecord{Address: address})
	}
	if options.Etcd != "" {
		conn, err := dial(options.Etcd, options.EtcdCredentials)
		if err != nil {
			return nil, err
		}
		c.workers.etcd = conn
	}
	return c, nil
}

// Close ends all that is under way.
func (c *Client) Close() { c.workers.close() }

// Models are the names of the served models. Needs Etcd.
func (c *Client) Models(ctx context.Context) ([]string, error) {
	if err := c.workers.refresh(ctx); err != nil {
		return nil, err
	}
	return c.workers.models(), nil
}

// Generate begins an answer. Close it, or end its context, to cancel it: the worker's rows end within a step.
func (c *Client) Generate(ctx context.Context, request *pb.GenerateRequest) *Generation {
	limited, cancel := context.WithCancel(ctx)
	var deadline time.Time
	if request.DeadlineMs != nil {
		deadline = time.Now().Add(time.Duration(*request.DeadlineMs) * time.Millisecond)
		limited, cancel = context.WithDeadline(ctx, deadline.Add(workersOwnWord))
	}
	return &Generation{
		client: c, caller: ctx, ctx: limited, cancel: cancel, answer: newAnswer(prepared(request)), deadline: deadline,
		until: time.Now().Add(c.options.Patience), avoid: map[*worker]bool{}, never: map[*worker]bool{},
	}
}

// Generation is one answer, over as many workers as it takes. For one goroutine.
type Generation struct {
	client   *Client
	caller   context.Context
	ctx      context.Context // the caller's, until a little after the deadline
	cancel   context.CancelFunc
	answer   *answer
	events   []*pb.GenerateResponse
	worker   *worker
	attempt  attempt
	asked    int
	begun    bool
	failures int
	until    time.Time
	deadline time.Time // the request's own; zero: none
	last     error
	// Workers that were left, and those that never can.
	avoid, never map[*worker]bool
}

// Next is the next event: started, delta and choice_finished of each choice, finished. io.EOF follows the last; an
// *Error says that no worker can go on.
func (g *Generation) Next() (*pb.GenerateResponse, error) {
	for len(g.events) == 0 {
		if g.answer.done {
			return nil, io.EOF
		}
		if err := g.advance(); err != nil {
			left := g.leave()
			if g.events = g.answer.finishAlone(); len(g.events) > 0 {
				break
			}
			if err = g.judge(left, err); err != nil {
				return nil, err
			}
		}
	}
	event := g.events[0]
	g.events = g.events[1:]
	return event, nil
}

// Close ends it, whatever its state.
func (g *Generation) Close() {
	g.leave()
	g.cancel()
}

// advance takes the next event of the attempt that is under way, or of a new one.
func (g *Generation) advance() error {
	if g.attempt == nil {
		if err := g.begin(); err != nil {
			return err
		}
	}
	event, err := g.attempt.next(g.ctx)
	if err != nil {
		return err
	}
	if g.events, err = g.answer.take(event); err != nil {
		return err
	}
	if delta := event.GetDelta(); delta != nil {
		g.attempt.grant(credit(delta, g.answer.started))
	}
	if !g.begun {
		g.begun = true
		g.worker.wentWell()
		g.until = time.Now().Add(g.client.options.Patience)
	}
	return nil
}

// credit is what a delta counts: a provider's text has no token ids, and each piece counts as one.
func credit(delta *pb.Delta, started *pb.Started) int {
	if started.TextOnly {
		return 1
	}
	return len(delta.TokenIds)
}

func (g *Generation) begin() error {
	if g.answer.request.Resume != nil {
		return &Error{Code: "invalid_request", Message: "'resume' is what this client sends by itself", Param: "resume"}
	}
	found, err := g.find()
	if err != nil {
		return err
	}
	g.worker, g.begun = found, false
	found.add(1)
	ahead := g.client.options.Credit
	if least := uint32(len(g.answer.choices) * 16); ahead < least {
		ahead = least
	}
	request := g.answer.next(g.asked)
	g.asked++
	if !g.deadline.IsZero() { // an attempt has what is left of the time
		left := time.Until(g.deadline).Milliseconds()
		if left < 1 {
			left = 1
		}
		request.DeadlineMs = proto.Uint32(uint32(left))
	}
	g.attempt, err = found.start(g.ctx, &g.client.options, request, ahead, g.leaves(found))
	return err
}

// leaves tells a stream whose worker drains whether another one could go on.
func (g *Generation) leaves(here *worker) func() bool {
	return func() bool {
		other := g.client.workers.choose(g.answer.request.Model, g.answer.fingerprint(), g.avoid, g.never)
		return !g.answer.pinned && other != nil && other != here
	}
}

// find waits for a worker.
func (g *Generation) find() (*worker, error) {
	model, fingerprint := g.answer.request.Model, g.answer.fingerprint()
	for {
		if !g.deadline.IsZero() && time.Now().After(g.deadline) {
			return nil, newError("deadline_exceeded", "the deadline has passed")
		}
		if err := g.client.workers.refresh(g.ctx); err != nil {
			return nil, err
		}
		if found := g.client.workers.choose(model, fingerprint, g.avoid, g.never); found != nil {
			return found, nil
		}
		if fingerprint == "" && !g.client.workers.anyServes(model, g.never) {
			unknown := newError("model_not_found", "no worker serves the model '%s'", model)
			unknown.Param = "model"
			return nil, g.final(unknown)
		}
		if time.Now().After(g.until) {
			return nil, g.final(newError("no_worker", "no worker took the request within %v", g.client.options.Patience))
		}
		select {
		case <-g.ctx.Done():
			return nil, g.ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// final is the error to end with: what the last worker said, if one did.
func (g *Generation) final(otherwise error) error {
	if g.last != nil {
		return g.last
	}
	return otherwise
}

// leave ends the attempt that is under way, and returns its worker; nil: there was none.
func (g *Generation) leave() *worker {
	one := g.worker
	if g.attempt != nil {
		g.attempt.close()
	}
	if one != nil {
		one.add(-1)
	}
	g.attempt, g.worker = nil, nil
	return one
}

// judge returns the error of the attempt on that worker if no other attempt would help.
func (g *Generation) judge(one *worker, err error) error {
	if g.ctx.Err() == context.DeadlineExceeded && g.caller.Err() == nil {
		return newError("deadline_exceeded", "the deadline has passed")
	}
	if g.ctx.Err() != nil {
		return g.ctx.Err()
	}
	failure := fromCall(err)
	if one == nil || g.answer.pinned || !elsewhere[failure.Code] {
		return failure
	}
	g.last = failure
	if failure.Code == "model_not_found" || failure.Code == "wrong_model" {
		g.never[one] = true
		return nil
	}
	g.avoid[one] = true
	one.rest(failure.RetryAfter)
	if g.begun && failure.Code != "draining" {
		g.failures++
		g.until = time.Now().Add(g.client.options.Patience)
	}
	if g.failures >= g.client.options.Attempts {
		return failure
	}
	return nil
}

// prepared is a copy with a name for the logs, and a seed, so that each worker draws the same numbers.
func prepared(request *pb.GenerateRequest) *pb.GenerateRequest {
	request = proto.Clone(request).(*pb.GenerateRequest)
	var random [24]byte
	if _, err := rand.Read(random[:]); err != nil {
		panic(err)
	}
	if request.RequestId == "" {
		request.RequestId = hex.EncodeToString(random[:16])
	}
	if request.Sampling == nil {
		request.Sampling = &pb.SamplingOptions{}
	}
	if request.Sampling.Seed == nil {
		request.Sampling.Seed = proto.Int64(int64(binary.BigEndian.Uint64(random[16:]) >> 1))
		request.Sampling.DrawnSeed = true
	}
	return request
}

// AsError is the mesh's error behind err, or nil.
func AsError(err error) *Error {
	var found *Error
	if errors.As(err, &found) {
		return found
	}
	return nil
}
