package mesh

import (
	"google.golang.org/protobuf/proto"

	pb "inference-mesh/clients/go/gen/meshv1"
)

// answer is what a request has produced so far, over all its attempts: what goes in are the events of one worker after
// the other, what comes out are those of a single, perfect one.
type answer struct {
	request *pb.GenerateRequest
	started *pb.Started
	choices []choice
	done    bool
	// A provider's text has no token ids: once some of it is out, no other worker can go on.
	pinned bool
	// More choices are generated than told.
	hidden bool
	begun  bool
}

type choice struct {
	tokenIDs []uint32
	finished bool
	// Text that a choice releases at its end comes without tokens, and again from a worker that resumes: it waits.
	tail []*pb.GenerateResponse
}

func newAnswer(request *pb.GenerateRequest) *answer {
	count := request.GetSampling().GetN()
	if count == 0 {
		count = 1
	}
	return &answer{
		request: request,
		choices: make([]choice, count),
		hidden:  request.GetSampling().GetBestOf() > count,
	}
}

func (a *answer) fingerprint() string { return a.started.GetFingerprint() }

// next is the request for the next attempt.
func (a *answer) next(attempt int) *pb.GenerateRequest {
	a.begun = false
	request := proto.Clone(a.request).(*pb.GenerateRequest)
	request.Attempt = uint32(attempt)
	if a.started != nil {
		request.ExpectedFingerprint = a.started.Fingerprint
		request.Resume = &pb.Resume{}
	}
	for index := range a.choices {
		one := &a.choices[index]
		one.tail = nil
		if request.Resume != nil && (len(one.tokenIDs) > 0 || one.finished) {
			progress := &pb.ChoiceProgress{Choice: uint32(index), TokenIds: one.tokenIDs, Finished: one.finished}
			request.Resume.Choices = append(request.Resume.Choices, progress)
		}
	}
	return request
}

// take adds an event and returns what of it is new.
func (a *answer) take(event *pb.GenerateResponse) ([]*pb.GenerateResponse, error) {
	switch body := event.Event.(type) {
	case *pb.GenerateResponse_Started:
		return a.takeStarted(event, body.Started)
	case *pb.GenerateResponse_Delta:
		return a.takeDelta(event, body.Delta)
	case *pb.GenerateResponse_ChoiceFinished:
		return a.takeEnd(event, body.ChoiceFinished)
	case *pb.GenerateResponse_Finished:
		return a.takeFinished(body.Finished)
	}
	return nil, nil // an event of a newer version
}

// finishAlone is the last event, if only that is missing: it is known all the same.
func (a *answer) finishAlone() []*pb.GenerateResponse {
	if a.hidden || a.pinned || a.started == nil || !a.complete() {
		return nil
	}
	events, _ := a.takeFinished(&pb.Finished{})
	return events
}

func (a *answer) takeStarted(event *pb.GenerateResponse, started *pb.Started) ([]*pb.GenerateResponse, error) {
	if a.begun {
		return nil, broken("started a request twice")
	}
	a.begun = true
	switch {
	case a.started == nil:
		a.started = started
		return []*pb.GenerateResponse{event}, nil
	case started.Fingerprint != a.started.Fingerprint:
		return nil, newError("wrong_model", "another model answers")
	case started.PromptTokens != a.started.PromptTokens:
		return nil, broken("resumed another prompt")
	}
	return nil, nil
}

func (a *answer) takeDelta(event *pb.GenerateResponse, delta *pb.Delta) ([]*pb.GenerateResponse, error) {
	one, err := a.open(delta.Choice)
	switch {
	case err != nil:
		return nil, err
	case a.started.TextOnly:
		a.pinned = true
	case len(delta.TokenIds) == 0:
		one.tail = append(one.tail, event)
		return nil, nil
	case delta.Position != nil && int(*delta.Position) != len(one.tokenIDs):
		return nil, broken("sent token %d where token %d was next", *delta.Position, len(one.tokenIDs))
	}
	one.tokenIDs = append(one.tokenIDs, delta.TokenIds...)
	return []*pb.GenerateResponse{event}, nil
}

func (a *answer) takeEnd(event *pb.GenerateResponse, ended *pb.ChoiceFinished) ([]*pb.GenerateResponse, error) {
	one, err := a.open(ended.Choice)
	if err != nil {
		return nil, err
	}
	if ended.Tokens != nil && !a.started.TextOnly && int(*ended.Tokens) != len(one.tokenIDs) {
		return nil, broken("ended a choice with %d tokens, of which %d have come", *ended.Tokens, len(one.tokenIDs))
	}
	one.finished = true
	return append(one.tail, event), nil
}

// takeFinished tells usage as an undisturbed run does: a resumed one finds more of the prompt in the prefix cache.
func (a *answer) takeFinished(finished *pb.Finished) ([]*pb.GenerateResponse, error) {
	if !a.complete() {
		return nil, broken("ended a request before its choices had ended")
	}
	a.done = true
	if !a.started.TextOnly && !a.hidden {
		tokens := 0
		for index := range a.choices {
			tokens += len(a.choices[index].tokenIDs)
		}
		finished.Usage = &pb.Usage{
			PromptTokens:     a.started.PromptTokens,
			CachedTokens:     a.started.CachedTokens,
			CompletionTokens: uint32(tokens),
		}
	}
	return []*pb.GenerateResponse{{Event: &pb.GenerateResponse_Finished{Finished: finished}}}, nil
}

func (a *answer) complete() bool {
	for index := range a.choices {
		if !a.choices[index].finished {
			return false
		}
	}
	return true
}

func (a *answer) open(index uint32) (*choice, error) {
	if !a.begun {
		return nil, broken("sent output before the request had started")
	}
	if int(index) >= len(a.choices) || a.choices[index].finished {
		return nil, broken("sent output of choice %d, which has ended or never was", index)
	}
	return &a.choices[index], nil
}

func broken(format string, values ...interface{}) *Error {
	return newError("protocol_error", "the worker "+format, values...)
}
