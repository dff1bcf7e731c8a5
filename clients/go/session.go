package mesh

import (
	"context"
	"sync"
	"time"

	pb "inference-mesh/clients/go/gen/meshv1"
)

const (
	openLimit        = 5 * time.Second
	defaultHeartbeat = 2.0 // seconds
	looks            = 8   // per heartbeat
)

// Session is one multiplexed stream with one worker: many generations, one message per engine step, credits per
// generation. A worker that is silent for longer than it promised to be is dead or frozen, and the session ends.
type Session struct {
	call   pb.InferenceService_SessionClient
	cancel context.CancelFunc
	opened chan struct{}
	over   chan struct{}

	sending sync.Mutex

	mutex    sync.Mutex
	streams  map[uint64]*Stream
	lastID   uint64
	heard    bool
	draining bool
	lost     *Error
}

// OpenSession opens a session with the worker; an id and incarnation, unless empty, are those that it must have.
func OpenSession(client pb.InferenceServiceClient, name, workerID, incarnation string) (*Session, error) {
	ctx, cancel := context.WithCancel(context.Background())
	call, err := client.Session(ctx)
	if err != nil {
		cancel()
		return nil, fromCall(err)
	}
	s := &Session{
		call: call, cancel: cancel, streams: map[uint64]*Stream{},
		opened: make(chan struct{}), over: make(chan struct{}),
	}
	open := &pb.SessionOpen{Client: name, ExpectedWorkerId: workerID, ExpectedIncarnation: incarnation}
	s.send(&pb.SessionRequest{Command: &pb.SessionRequest_Open{Open: open}})
	go s.read()
	select {
	case <-s.opened:
	case <-s.over:
	case <-time.After(openLimit):
		s.end(newError("worker_lost", "the session did not open within %v", openLimit))
	}
	if err := s.Lost(); err != nil {
		return nil, err
	}
	return s, nil
}

// Start starts a generation of which the worker may send credit tokens before it is granted more.
func (s *Session) Start(request *pb.GenerateRequest, credit uint32) *Stream {
	s.mutex.Lock()
	s.lastID++
	stream := &Stream{session: s, id: s.lastID, mailbox: newMailbox()}
	s.streams[stream.id] = stream
	lost := s.lost
	s.mutex.Unlock()
	if lost != nil {
		stream.mailbox.fail(lost)
		return stream
	}
	start := &pb.StreamStart{StreamId: stream.id, Request: request, Credit: &credit}
	s.send(&pb.SessionRequest{Command: &pb.SessionRequest_Start{Start: start}})
	return stream
}

// Lost is why the session is over, or nil.
func (s *Session) Lost() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.lost == nil {
		return nil
	}
	return s.lost
}

// Draining tells whether the worker takes nothing new.
func (s *Session) Draining() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.draining
}

// Close ends the session and all its generations.
func (s *Session) Close() { s.end(newError("worker_lost", "the session was closed")) }

func (s *Session) send(command *pb.SessionRequest) {
	s.sending.Lock()
	defer s.sending.Unlock()
	_ = s.call.Send(command) // what went wrong is told by Recv
}

func (s *Session) read() {
	for {
		message, err := s.call.Recv()
		if err != nil {
			s.end(fromCall(err))
			return
		}
		if message.Opened != nil {
			close(s.opened)
			heartbeat := message.Opened.Heartbeat
			if heartbeat == 0 {
				heartbeat = defaultHeartbeat
			}
			go s.watch(time.Duration(heartbeat * float64(time.Second)))
		}
		s.receive(message)
	}
}

func (s *Session) receive(message *pb.SessionResponse) {
	s.mutex.Lock()
	s.heard = true
	began := message.Draining && !s.draining
	s.draining = message.Draining // which may be called off
	if began {
		for _, stream := range s.streams {
			stream.mailbox.wake()
		}
	}
	s.mutex.Unlock()
	for _, event := range message.Events {
		s.deliver(event)
	}
}

func (s *Session) deliver(event *pb.StreamEvent) {
	s.mutex.Lock()
	stream := s.streams[event.StreamId]
	if event.GetFinished() != nil || event.GetFailed() != nil {
		delete(s.streams, event.StreamId)
	}
	s.mutex.Unlock()
	if stream == nil {
		return // it was cancelled: this was under way
	}
	switch body := event.Event.(type) {
	case *pb.StreamEvent_Started:
		stream.mailbox.put(&pb.GenerateResponse{Event: &pb.GenerateResponse_Started{Started: body.Started}})
	case *pb.StreamEvent_Delta:
		stream.mailbox.put(&pb.GenerateResponse{Event: &pb.GenerateResponse_Delta{Delta: body.Delta}})
	case *pb.StreamEvent_ChoiceFinished:
		ended := &pb.GenerateResponse_ChoiceFinished{ChoiceFinished: body.ChoiceFinished}
		stream.mailbox.put(&pb.GenerateResponse{Event: ended})
	case *pb.StreamEvent_Finished:
		stream.mailbox.put(&pb.GenerateResponse{Event: &pb.GenerateResponse_Finished{Finished: body.Finished}})
	case *pb.StreamEvent_Failed:
		stream.mailbox.fail(fromFailure(body.Failed))
	}
}

// watch counts looks without news, and no time: a process that was held up does not make the worker silent.
func (s *Session) watch(heartbeat time.Duration) {
	ticker := time.NewTicker(heartbeat / looks)
	defer ticker.Stop()
	for quiet := 0; ; {
		select {
		case <-s.over:
			return
		case <-ticker.C:
		}
		s.mutex.Lock()
		quiet++
		if s.heard {
			quiet = 0
		}
		s.heard = false
		s.mutex.Unlock()
		if quiet > looks {
			s.end(newError("worker_lost", "the worker was silent for %v", heartbeat))
		}
	}
}

func (s *Session) end(err *Error) {
	s.mutex.Lock()
	if s.lost != nil {
		s.mutex.Unlock()
		return
	}
	s.lost = err
	streams := s.streams
	s.streams = map[uint64]*Stream{}
	close(s.over)
	s.mutex.Unlock()
	s.cancel()
	for _, stream := range streams {
		stream.mailbox.fail(err)
	}
}

// Stream is one generation of a session.
type Stream struct {
	session *Session
	id      uint64
	mailbox *mailbox
	// Whether another worker could go on, asked while this one drains; nil: none.
	leaves func() bool
}

// Next is the next event; an error when the worker refuses or is lost. Nothing follows `finished`.
func (s *Stream) Next(ctx context.Context) (*pb.GenerateResponse, error) {
	return s.mailbox.next(ctx, s.idle)
}

// Grant allows the worker so many tokens more.
func (s *Stream) Grant(tokens int) {
	credit := &pb.StreamCredit{StreamId: s.id, Tokens: uint32(tokens)}
	s.session.send(&pb.SessionRequest{Command: &pb.SessionRequest_Credit{Credit: credit}})
}

// Cancel ends it: the worker's rows end within a step.
func (s *Stream) Cancel() {
	s.session.mutex.Lock()
	_, live := s.session.streams[s.id]
	delete(s.session.streams, s.id)
	s.session.mutex.Unlock()
	if live {
		cancel := &pb.StreamCancel{StreamId: s.id}
		s.session.send(&pb.SessionRequest{Command: &pb.SessionRequest_Cancel{Cancel: cancel}})
	}
}

func (s *Stream) next(ctx context.Context) (*pb.GenerateResponse, error) { return s.Next(ctx) }
func (s *Stream) grant(tokens int)                                       { s.Grant(tokens) }
func (s *Stream) close()                                                 { s.Cancel() }

func (s *Stream) idle() error {
	if s.leaves != nil && s.session.Draining() && s.leaves() {
		return newError("draining", "the worker drains")
	}
	return nil
}
