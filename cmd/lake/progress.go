package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

// progress tells a person how far a long command is: on a terminal by a bar that is
// drawn over, elsewhere by a line every few seconds. A quiet one says nothing.
type progress struct {
	w     io.Writer
	tty   bool
	quiet bool

	mu    sync.Mutex
	begin time.Time
	last  time.Time // when it last said something
	step  string    // the one that is shown
	drawn bool      // a bar stands on the line
}

const (
	barEvery  = 100 * time.Millisecond // on a terminal
	lineEvery = 5 * time.Second        // elsewhere
	barWidth  = 30
)

func newProgress(w io.Writer, quiet bool) *progress {
	f, isFile := w.(*os.File)
	return &progress{w: w, quiet: quiet, tty: isFile && isatty.IsTerminal(f.Fd()), begin: time.Now()}
}

// show tells that done of total are done; total 0: nobody knows of how many.
func (p *progress) show(step string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	every := lineEvery
	if p.tty {
		every = barEvery
	}
	whole := total > 0 && done == total
	if p.quiet || step == p.step && time.Since(p.last) < every && !whole || total == 0 && done == 0 {
		return
	}
	p.step, p.last = step, time.Now()
	text := fmt.Sprintf("%6.1f s  %s %d", time.Since(p.begin).Seconds(), step, done)
	if total > 0 {
		text += fmt.Sprintf(" of %d (%d %%)", total, done*100/total)
	}
	if !p.tty {
		_, _ = fmt.Fprintln(p.w, text) // nobody to tell
		return
	}
	bar := ""
	if total > 0 {
		n := barWidth * done / total
		bar = "  [" + strings.Repeat("#", n) + strings.Repeat(".", barWidth-n) + "]"
	}
	_, _ = fmt.Fprintf(p.w, "\r\033[K%s%s", text, bar)
	p.drawn = true
}

// line says a sentence on a line of its own.
func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	p.clear()
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.drawn {
		_, _ = fmt.Fprint(p.w, "\r\033[K")
		p.drawn = false
	}
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *progress) seconds() float64 { return time.Since(p.begin).Seconds() }
