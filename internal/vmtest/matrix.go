package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// MatrixPackages have tests that a kernel decides.
var MatrixPackages = []string{"./loader", "./pinning", "./audit", "./internal/bpfsys", "./internal/daemon", "./internal/mapmaker", "./internal/memcg", "./internal/progwatch", "./internal/testenv", "./internal/safefile",
	"./systemd", "./systemd/units", "./examples", "./cmd/hornetd", "./cmd/hornetctl",
	"./lsm-module"} // the last: what a guard that stays would refuse is not there any more

// matrixSkip are tests of these packages that no kernel decides, and that take
// long in an emulated guest or need programs that it has not: what is refused,
// and what is trusted, is decided before the kernel is asked, and when to repair
// and to go back behind it.
const matrixSkip = "-test.skip=^(Fuzz.*|TestScripts|TestVerify|TestExposure|TestFirstBoot" +
	"|Test(OpenSSL|AppendedSignature|Bad|Hostile|DropInBad|RefusalsAreTold|RefusedStarts|StartBeside|Expir|Revoked|List(IsNotGood|NeedsRoots|OfThe|InForce|WithAFull)|CopyOf|SignedA|SignerRules|VersionsOnly|WithoutVersion|Rollback|" +
	"APIDocument|ClientWhoNeverReads|TooManyConnections|SlowClients|EventsResume|ForbiddenLooks|CurlRefused|FullDisk|SignedManifest|ReloadRefuses|DropInNarrows|Pattern|RecoverBusy|RacingWriters|" +
	"DaemonScripts|FaultAtEverySystemCall|OpenRefusesACorrupt|ReadFrom|OpenAndReadOfALarge|ReadWhileTheName|" +
	"Ratchet|UnwritableRatchet|KilledBetween|FullDiskStops|Development|Trust(Model|Shrinks|ThatCannot)|KeyRotation|OneKey|" +
	"KilledAtEverySystemCallOfA(Re|Trial)|KilledDuringATrial|KilledWhile|EveryFailedCall|UpgradesUnderTraffic|Sender|ManyRepairs|Flapping|Fight|ComesAndGoes|OneInterface|OnePlace|Pending|" +
	"Document|NotHTTP|Mixed|ClientDiesAnywhere|Lease|ThousandLeases|EventsFilter|TrustIsTold|SlowReader|Flood|ChangesInTurn|LimitIsTold|LimitsInStatus|UserLimits|RecordsAreBounded|" +
	"LargeEntries|ReplacedMeanwhile|RightsAre|Trial|PolicyTest|GuardCheck|Target(AttachedAnew|ByHand|CgroupOfAll|ChangesHands|Decisions|EndsAtOnce|EndsWhateverElse|GoesMeanwhile|InPython|KeepsNoReload|Lease|Moved|NotAsked|NotTaken|Required|Run|Trial|WithoutDirectory|sNot)|LongestVerification|VerifierJobs|Meanwhile|TargetMeanwhile|ClientGoesMeanwhile|UpgradeMeanwhile|Run|Template|WhatComesDuring|UntrustedCorpus|ChildOfAnother|FirstProcess|UntrustedKeeps|AnotherSigner|QuarantineIsRevoked|Samples(Stalled|Dripped|Limits|HalfClosed)|CompareAndWrite|WritesAreRecorded).*)$"

// Matrix runs tests on several kernels.
type Matrix struct {
	Kernels []string
	Tests   Tests
	Module  string    // root of this module
	Guests  int       // at once; 0 is what memory and processors allow
	Log     io.Writer // one line for each guest
}

// Run returns the results of all kernels. A kernel that cannot run here is one
// skipped result that says why, and with Tests.CI a failure.
func (m *Matrix) Run(ctx context.Context) ([]Result, error) {
	dir, err := os.MkdirTemp("", "hornet-tests-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	m.Tests.Flags = append(m.Tests.Flags, "-test.v=test2json", matrixSkip)
	if err := m.Tests.Build(dir); err != nil {
		return nil, err
	}
	free := make(chan struct{}, m.guests())
	results := make([][]Result, len(m.Kernels))
	errs := make([]error, len(m.Kernels))
	var wait sync.WaitGroup
	for i, name := range m.Kernels {
		wait.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			start := time.Now()
			results[i], errs[i] = m.one(ctx, name, dir)
			passed, failed, skipped := count(results[i])
			fmt.Fprintf(m.Log, "Linux %s: %d passed, %d failed, %d skipped in %.0f s\n", name, passed, failed, skipped, time.Since(start).Seconds())
		})
	}
	wait.Wait()
	return slices.Concat(results...), errors.Join(errs...)
}

// guests returns how many fit: each may come to use 2.5 GB, and waits now and
// then, so that there are more of them than processors.
func (m *Matrix) guests() int {
	if m.Guests > 0 {
		return m.Guests
	}
	return max(1, min(available()/(5<<29), runtime.NumCPU()*3/2, len(m.Kernels)))
}

// available returns the memory that is to be had, in bytes.
func available() int {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}

// one boots one kernel.
func (m *Matrix) one(ctx context.Context, name, dir string) ([]Result, error) {
	k, err := m.Tests.arch().Find(name)
	if err != nil {
		return m.missing(name, err)
	}
	g, err := m.Tests.Guest(k, dir, m.Module)
	if err != nil {
		return nil, err
	}
	g.CPUs = 1 // two emulated processors cost twice as much: they wait for each other
	outputs := make([]bytes.Buffer, len(g.Commands))
	report, err := g.Run(ctx, func(i int, b []byte) { outputs[i].Write(b) })
	if errors.Is(err, ErrUnavailable) {
		return m.missing(name, err)
	}
	if report.Boots > 1 {
		fmt.Fprintf(m.Log, "Linux %s: booted %d times, because it hung or died before /init\n", name, report.Boots)
	}
	if report.Console != "" {
		fmt.Fprintf(m.Log, "Linux %s: console of the guest: %s\n", name, report.Console)
	}
	var results []Result
	for i, c := range g.Commands {
		got, e := convert(ctx, name, c.Name, &outputs[i], report.failure(i, err))
		if e != nil {
			return nil, e
		}
		results = append(results, got...)
	}
	judge(results)
	return results, nil
}

// missing is the result of a kernel that cannot run here.
func (m *Matrix) missing(name string, err error) ([]Result, error) {
	if !errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	r := Result{Kernel: name, Package: modulePath + "/internal/vmtest", Test: "Linux " + name, Action: "skip", Reason: err.Error()}
	if m.Tests.CI {
		r.Action = "fail"
	}
	return []Result{r}, nil
}

// failure says why command i failed, or nil.
func (r *Report) failure(i int, guest error) error {
	if i >= len(r.Exits) {
		if guest == nil {
			guest = errors.New("guest: the command did not run")
		}
		return guest
	}
	if e := r.Exits[i]; !e.OK() {
		return &ExitError{e}
	}
	return nil
}

// convert makes results of the output of one test binary.
func convert(ctx context.Context, kernel, pkg string, output io.Reader, ended error) ([]Result, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	cmd.Stdin = output
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w: %s", err, stderr(err))
	}
	return parseEvents(kernel, pkg, bytes.NewReader(b), ended)
}
