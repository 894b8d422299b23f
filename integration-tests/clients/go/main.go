// The main job by grpc-go: what changed, the plan that undoes it, and its script.
//
// It reads its task, one JSON object, from standard input, so that no secret is on a command line, and prints what it found as JSON.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	words "client/gen/trailmesh/change/v1"
	query "client/gen/trailmesh/query/v1"
	recovery "client/gen/trailmesh/recovery/v1"
)

type task struct {
	Target, CA, Key, Server string
}

type results map[string]any

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var task task
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		return err
	}
	authority, err := credentials.NewClientTLSFromFile(task.CA, "")
	if err != nil {
		return err
	}
	channel, err := grpc.NewClient(task.Target, grpc.WithTransportCredentials(authority))
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+task.Key)
	found := results{}
	changes, orders := query.NewQueryServiceClient(channel), &words.Filter{
		Tables: []*words.TableFilter{{Schema: "shop", Table: "orders"}},
	}
	newest, err := ask(ctx, changes, task.Server, orders, found)
	if err != nil {
		return err
	}
	accident := &words.Filter{Transaction: fmt.Sprintf("%s:%d", newest.Position.File, newest.Position.Offset)}
	if err := undo(ctx, recovery.NewRecoveryServiceClient(channel), task.Server, accident, found); err != nil {
		return err
	}
	if err := follow(ctx, changes, task.Server, orders, found); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// ask finds the newest change, and counts all that come in a stream.
func ask(ctx context.Context, changes query.QueryServiceClient, server string, orders *words.Filter, found results) (*words.Change, error) {
	page, err := changes.QueryChanges(ctx, &query.QueryChangesRequest{Server: server, Filter: orders, PageSize: 1})
	if err != nil {
		return nil, err
	}
	newest, before := page.Changes[0], map[string]any{}
	for _, cell := range newest.Before.Cells {
		before[cell.Column] = valueOf(cell.Value)
	}
	found["newest"] = results{
		"op": newest.Op.String(), "before": before, "more": page.NextPageToken != "", "complete": page.Coverage.Complete,
	}
	frames, err := changes.StreamChanges(ctx, &query.StreamChangesRequest{Server: server, Filter: orders})
	if err != nil {
		return nil, err
	}
	streamed := 0
	for {
		frame, err := frames.Recv()
		if errors.Is(err, io.EOF) {
			found["streamed"] = streamed
			return newest, nil
		}
		if err != nil {
			return nil, err
		}
		streamed += len(frame.Changes)
	}
}

// undo plans, and takes the script, whose digest is in the plan, before the first byte, and after the last.
func undo(ctx context.Context, plans recovery.RecoveryServiceClient, server string, accident *words.Filter, found results) error {
	planned, err := plans.PlanUndo(ctx, &recovery.PlanUndoRequest{Server: server, Filter: accident})
	if err != nil {
		return err
	}
	found["plan"] = results{"included": planned.Plan.Summary.Included, "conflicts": len(planned.Conflicts)}
	pieces, err := plans.GetScript(ctx, &recovery.GetScriptRequest{PlanId: planned.Plan.Id})
	if err != nil {
		return err
	}
	before, err := pieces.Header()
	if err != nil {
		return err
	}
	var script []byte
	for {
		piece, err := pieces.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		script = append(script, piece.Chunk.Data...)
	}
	sum := sha256.Sum256(script)
	digest, digests := hex.EncodeToString(sum[:]), []bool{}
	for _, said := range [][]string{{planned.Plan.Digest}, before.Get("trailmesh-digest"), pieces.Trailer().Get("trailmesh-digest")} {
		digests = append(digests, len(said) == 1 && said[0] == digest)
	}
	found["script"] = results{"text": string(script), "digests": digests}
	return nil
}

// follow hears of what comes, and hangs up.
func follow(ctx context.Context, changes query.QueryServiceClient, server string, orders *words.Filter, found results) error {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	following, err := changes.FollowChanges(ctx, &query.FollowChangesRequest{Server: server, Filter: orders, Last: 1})
	if err != nil {
		return err
	}
	for {
		frame, err := following.Recv()
		if err != nil {
			return err
		}
		if len(frame.Changes) > 0 {
			found["followed"] = frame.Changes[0].Op.String()
			return nil
		}
	}
}

func valueOf(value *words.Value) any {
	switch kind := value.Kind.(type) {
	case *words.Value_Null:
		return nil
	case *words.Value_Int:
		return kind.Int
	case *words.Value_Decimal:
		return kind.Decimal
	case *words.Value_Text:
		return kind.Text
	case *words.Value_Bytes:
		return hex.EncodeToString(kind.Bytes)
	default:
		return value.String()
	}
}
