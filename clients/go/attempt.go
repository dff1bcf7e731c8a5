package mesh

import (
	"context"
	"sync"

	pb "inference-mesh/clients/go/gen/meshv1"
)

// attempt is one generation on one worker: a Generate call of its own, or a stream of a session.
type attempt interface {
	// next is the next event. It fails when the worker refuses, is lost or drains, or when the context ends.
	next(ctx context.Context) (*pb.GenerateResponse, error)
	// grant says that so many tokens were read: the worker may send as many more.
	grant(tokens int)
	// close ends it, whatever its state.
	close()
}

// plainCall is a Generate call. It has no credits: HTTP/2 holds the worker up when nobody reads.
type plainCall struct {
	stream pb.InferenceService_GenerateClient
	cancel context.CancelFunc
}

func (p *plainCall) next(context.Context) (*pb.GenerateResponse, error) { return p.stream.Recv() }
func (p *plainCall) grant(int)                                          {}
func (p *plainCall) close()                                             { p.cancel() }

// mailbox has events in order, and then an end. Whoever puts never waits: credits bound what can be in it.
type mailbox struct {
	mutex   sync.Mutex
	events  []*pb.GenerateResponse
	failure error
	news    chan struct{}
}

func newMailbox() *mailbox { return &mailbox{news: make(chan struct{}, 1)} }

func (m *mailbox) put(event *pb.GenerateResponse) {
	m.mutex.Lock()
	m.events = append(m.events, event)
	m.mutex.Unlock()
	m.wake()
}

// fail ends it, after the events that have come.
func (m *mailbox) fail(err error) {
	m.mutex.Lock()
	if m.failure == nil {
		m.failure = err
	}
	m.mutex.Unlock()
	m.wake()
}

func (m *mailbox) wake() {
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// next waits for the next one; idle is called, in the reader's goroutine, when it has to wait.
func (m *mailbox) next(ctx context.Context, idle func() error) (*pb.GenerateResponse, error) {
	for {
		if event, err := m.look(); event != nil || err != nil {
			return event, err
		}
		if err := idle(); err != nil {
			return nil, err
		}
		select {
		case <-m.news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (m *mailbox) look() (*pb.GenerateResponse, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if len(m.events) == 0 {
		return nil, m.failure
	}
	event := m.events[0]
	m.events = m.events[1:]
	return event, nil
}
