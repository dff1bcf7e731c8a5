package mesh

import (
	"context"
	"math/rand"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"

	"inference-mesh/clients/go/gen/etcdv1"
	pb "inference-mesh/clients/go/gen/meshv1"
)

const (
	workersPrefix   = "/mesh/v1/workers/"
	workersEnd      = "/mesh/v1/workers0" // the character after "/"
	listingLimit    = 5 * time.Second
	fresh           = time.Second            // for so long a listing counts
	knownLimit      = 500 * time.Millisecond // for so long a listing is waited for where workers are known
	grace           = 30 * time.Second       // for so long a worker that is not listed any more is a last choice
	firstPause      = 100 * time.Millisecond
	longestPause    = 2 * time.Second
	maxMessageBytes = 64 << 20
)

// worker is one start of one worker.
type worker struct {
	// Held while its connection or session is being made, so that there is one of each.
	opening sync.Mutex

	// Held for a moment; guards what follows.
	mutex      sync.Mutex
	record     *pb.WorkerRecord
	live       int
	restsUntil time.Time
	pause      time.Duration
	conn       *grpc.ClientConn
	session    *Session
	// Since when the registry does not list it: one that came back empty has not lost the workers. Zero: it does.
	vanishedAt time.Time
}

func newWorker(record *pb.WorkerRecord) *worker { return &worker{record: record, pause: firstPause} }

// serves tells whether it has the model, and can go on with an answer of this fingerprint if one is given.
func (w *worker) serves(model, fingerprint string) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.record.WorkerId == "" {
		return true // only its address is known
	}
	for _, served := range w.record.Models {
		if served.Name == model && fingerprint == "" {
			return true
		}
		if served.Name == model && served.Fingerprint == fingerprint {
			for _, capability := range served.Capabilities {
				if capability == pb.Capability_CAPABILITY_RESUME {
					return true
				}
			}
		}
	}
	return false
}

// ready tells whether it may be asked now.
func (w *worker) ready() bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	drains := w.record.State == pb.WorkerState_WORKER_STATE_DRAINING || (w.session != nil && w.session.Draining())
	return !drains && !time.Now().Before(w.restsUntil)
}

// busy is how many of this client's generations are there for each of its slots.
func (w *worker) busy() float64 {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return float64(w.live) / float64(w.record.Slots+1)
}

// update takes a newer record of the same start of the worker; false: it was started again.
func (w *worker) update(record *pb.WorkerRecord) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	same := w.record.Incarnation == record.Incarnation
	if same {
		w.record = record
	}
	return same
}

// vanished notes whether the registry lacks it, and returns for how long it has.
func (w *worker) vanished(now bool) time.Duration {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if !now {
		w.vanishedAt = time.Time{}
		return 0
	}
	if w.vanishedAt.IsZero() {
		w.vanishedAt = time.Now()
	}
	return time.Since(w.vanishedAt)
}

// listed tells whether the registry listed it last.
func (w *worker) listed() bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.vanishedAt.IsZero()
}

func (w *worker) add(generations int) {
	w.mutex.Lock()
	w.live += generations
	w.mutex.Unlock()
}

// rest leaves it alone for a while, longer each time, or for the time that it asked for.
func (w *worker) rest(after time.Duration) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if after < w.pause {
		after = w.pause
	}
	w.restsUntil = time.Now().Add(after)
	if w.pause *= 2; w.pause > longestPause {
		w.pause = longestPause
	}
}

func (w *worker) wentWell() {
	w.mutex.Lock()
	w.pause = firstPause
	w.mutex.Unlock()
}

// start begins a generation there; leaves is asked when the worker drains.
func (w *worker) start(
	ctx context.Context, o *Options, request *pb.GenerateRequest, credit uint32, leaves func() bool,
) (attempt, error) {
	if o.PlainCalls {
		client, err := w.client(o)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		stream, err := client.Generate(ctx, request)
		if err != nil {
			cancel()
			return nil, err
		}
		return &plainCall{stream, cancel}, nil
	}
	session, err := w.openSession(o)
	if err != nil {
		return nil, err
	}
	stream := session.Start(request, credit)
	stream.leaves = leaves
	return stream, nil
}

func (w *worker) openSession(o *Options) (*Session, error) {
	client, err := w.client(o)
	if err != nil {
		return nil, err
	}
	w.opening.Lock()
	defer w.opening.Unlock()
	w.mutex.Lock()
	session, record := w.session, w.record
	w.mutex.Unlock()
	if session != nil && session.Lost() == nil {
		return session, nil
	}
	session, err = OpenSession(client, "go", record.WorkerId, record.Incarnation)
	if err != nil {
		return nil, err
	}
	w.mutex.Lock()
	w.session = session
	w.mutex.Unlock()
	return session, nil
}

// client is a stub on its connection, which is made without waiting for the worker.
func (w *worker) client(o *Options) (pb.InferenceServiceClient, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.conn == nil {
		conn, err := dial(w.record.Address, o.Credentials)
		if err != nil {
			return nil, newError("worker_lost", "%v", err)
		}
		w.conn = conn
	}
	return pb.NewInferenceServiceClient(w.conn), nil
}

func (w *worker) close() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.session != nil {
		w.session.Close()
	}
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// workers are those of the registry, listed by etcd's own gRPC API, which the registry of `mesh up` serves too; or
// those whose addresses were given.
type workers struct {
	etcd *grpc.ClientConn

	mutex    sync.Mutex
	known    map[string]*worker
	listedAt time.Time
	listing  chan struct{} // closed at the end of the listing that is under way; nil: none
	failure  error         // of the last listing
}

// refresh asks the registry, unless that was done just now. When it is away, what was known stays known, and one that
// does not answer holds up nobody.
func (w *workers) refresh(ctx context.Context) error {
	w.mutex.Lock()
	if w.etcd == nil || time.Since(w.listedAt) < fresh {
		w.mutex.Unlock()
		return nil
	}
	if w.listing == nil {
		w.listing = make(chan struct{})
		go w.list(w.listing)
	}
	listing, patience := w.listing, knownLimit
	if len(w.known) == 0 {
		patience = 2 * listingLimit // it ends before
	} else if w.failure != nil {
		patience = 0
	}
	w.mutex.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-listing:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if len(w.known) == 0 {
		return w.failure
	}
	return nil
}

func (w *workers) list(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), listingLimit)
	defer cancel()
	var answer etcdv1.RangeResponse
	asked := &etcdv1.RangeRequest{Key: []byte(workersPrefix), RangeEnd: []byte(workersEnd)}
	err := w.etcd.Invoke(ctx, "/etcdserverpb.KV/Range", asked, &answer)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.failure = nil
	if err != nil {
		w.failure = newError("no_worker", "etcd does not answer: %v", err)
	} else {
		w.listedAt = time.Now()
		w.note(answer.Kvs)
	}
	w.listing = nil
	close(done)
}

func (w *workers) note(listing []*etcdv1.KeyValue) {
	listed := map[string]bool{}
	for _, item := range listing {
		record := &pb.WorkerRecord{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(item.Value, record); err != nil {
			continue // no record of a worker
		}
		id := record.WorkerId
		listed[id] = true
		if old := w.known[id]; old == nil || !old.update(record) {
			w.known[id] = newWorker(record)
		}
	}
	for id, one := range w.known {
		if one.vanished(!listed[id]) > grace && one.busy() == 0 {
			delete(w.known, id)
			go one.close()
		}
	}
}

// choose is the least busy worker that may be asked now; one of avoid, or that is not listed any more, only if there is
// no other, none of never.
func (w *workers) choose(model, fingerprint string, avoid, never map[*worker]bool) *worker {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	var best *worker
	least := 0.0
	for _, one := range w.known {
		if never[one] || !one.serves(model, fingerprint) || !one.ready() {
			continue
		}
		rank := one.busy() + rand.Float64()*1e-6
		if avoid[one] {
			rank += 1e6
		}
		if !one.listed() {
			rank += 1e5
		}
		if best == nil || rank < least {
			best, least = one, rank
		}
	}
	return best
}

func (w *workers) close() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, one := range w.known {
		one.close()
	}
	if w.etcd != nil {
		_ = w.etcd.Close()
	}
}

// anyServes tells whether a worker has the model, however busy.
func (w *workers) anyServes(model string, never map[*worker]bool) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, one := range w.known {
		if one.serves(model, "") && !never[one] {
			return true
		}
	}
	return false
}

// models are the names of what they serve.
func (w *workers) models() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	found := map[string]bool{}
	for _, one := range w.known {
		one.mutex.Lock()
		for _, served := range one.record.Models {
			found[served.Name] = true
		}
		one.mutex.Unlock()
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func dial(address string, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	security := grpc.WithInsecure()
	if creds != nil {
		security = grpc.WithTransportCredentials(creds)
	}
	address = strings.TrimPrefix(strings.TrimPrefix(address, "http://"), "https://")
	// Keepalive notices a peer that was stopped, which the end of a connection does not tell; 10 s is gRPC's least.
	alive := keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}
	calls := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.ForceCodec(codec{}))
	return grpc.Dial(address, security, grpc.WithKeepaliveParams(alive), calls)
}
