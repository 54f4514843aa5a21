// Command bench measures RunCVM against baselines on this machine, and writes the results as JSON.
//
//	RUNCVM_BIN=bin RUNCVM_TEST_IMAGE=build/image/debian go run ./bench -o bench/results.json
//
// RUNCVM_BIN has the programs, RUNCVM_TEST_IMAGE is an OCI layout of a Debian image, RUNCVM_VMM is the VMM (default:
// firecracker-qemu of RUNCVM_BIN), RUNCVM_KERNEL is the faster kernel that row kernel compares (default: build/kernel, where it is).
// All rows come of one run, unless some are measured again by -rows: a result is a median, and a ratio's two sides are measured in turn,
// so that what else the machine does falls on both. docs/benchmarks.md says how to read each row.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are how much is measured.
type options struct {
	out    string
	rows   string
	pairs  int
	starts int
	builds int
	execs  int
	// transfers are pairs in row redirect.
	transfers int
}

// row is one measurement; each of its results is a line of the report.
type row struct {
	name string
	run  func(context.Context, *bench) ([]Result, error)
}

// rows in the order in which they run. Memory comes first: it ends the idle container, which would only disturb the others.
var rows = []row{
	{"memory", memoryRow},
	{"boot", bootRow},
	{"kernel", kernelRow},
	{"concurrent", concurrentRow},
	{"host-work", hostWorkRow},
	{"exec", execRow},
	{"sizes", sizesRow},
	{"layers", layersRow},
	{"directory", directoryRow},
	{"pull", pullRow},
	{"redirect", redirectRow},
}

func main() {
	var o options
	flag.StringVar(&o.out, "o", "", "file for the results; empty: standard output")
	flag.StringVar(&o.rows, "rows", "", "comma-separated rows to measure; empty: all. Others that the file has remain")
	flag.IntVar(&o.pairs, "pairs", 9, "pairs of guests in the rows boot and kernel")
	flag.IntVar(&o.starts, "starts", 11, "starts in row host-work")
	flag.IntVar(&o.execs, "execs", 20, "execs in row exec")
	flag.IntVar(&o.builds, "builds", 5, "pairs in each of the rows layers, directory and pull")
	flag.IntVar(&o.transfers, "transfers", 101, "pairs for each result of row redirect")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	var earlier Report
	if o.out != "" {
		if earlier, err = readReport(o.out); err != nil {
			return err
		}
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	report := Report{Started: time.Now().UTC().Truncate(time.Second), Machine: machine(b)}
	for _, r := range rows {
		if o.rows != "" && !strings.Contains(","+o.rows+",", ","+r.name+",") {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", r.name)
		load := loadAverage()
		results, err := r.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		for _, res := range results {
			res.LoadBefore, res.LoadAfter = load, loadAverage()
			res.finish(report.Machine.Processors)
			fmt.Fprintf(os.Stderr, "  %s\n", res)
			report.Results = append(report.Results, res)
		}
	}
	report.Seconds = time.Since(report.Started).Round(time.Second).Seconds()
	if o.rows != "" {
		if report, err = report.merge(earlier); err != nil {
			return err
		}
	}
	return report.write(o.out)
}

func (r Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if path == "" {
		_, err = os.Stdout.Write(text)
		return err
	}
	// Whole or not at all: a run that was interrupted leaves the last results as they are.
	if err := os.WriteFile(path+".part", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}
