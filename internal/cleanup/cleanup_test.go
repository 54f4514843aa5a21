package cleanup

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestStepsRunInReverseOnTheirOwnContextAndTheirErrorsAreJoined(t *testing.T) {
	var s Stack
	var order []int
	first, second := errors.New("first"), errors.New("second")
	s.Add(func(ctx context.Context) error { order = append(order, 1); return errors.Join(first, ctx.Err()) })
	s.AddFunc(func() error { order = append(order, 2); return second })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.Run(ctx, time.Second)
	if !slices.Equal(order, []int{2, 1}) || !errors.Is(err, first) || !errors.Is(err, second) || errors.Is(err, context.Canceled) {
		t.Errorf("order %v, error %v", order, err)
	}
	if err := s.Run(ctx, time.Second); err != nil || len(order) != 2 {
		t.Errorf("run twice: %v, %v", order, err)
	}
}

func TestAReleasedStackDoesNothing(t *testing.T) {
	var s Stack
	s.AddFunc(func() error { return errors.New("ran") })
	s.Release()
	if err := s.Run(context.Background(), time.Second); err != nil {
		t.Error(err)
	}
}
