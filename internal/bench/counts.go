package bench

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// counts are what a lake and its servers have counted up to a moment.
type counts struct {
	metrics Values // of all processes of the lake, sums; histograms by their sum and count
	redis   Values // of the index
	cpu     cpuMark
}

// count takes the counters of a lab. Those of servers that are not ours are
// missing.
func (l *lab) count(ctx context.Context) (counts, error) {
	c := counts{metrics: Values{}, redis: Values{}}
	for name, ops := range l.ops {
		m, err := Scrape(ctx, "http://"+ops+"/metrics")
		if err != nil {
			return c, fmt.Errorf("metrics of %s: %w", name, err)
		}
		for k, v := range m {
			c.metrics[k] += v
		}
	}
	if l.redis != nil {
		text, err := l.redis.Info(ctx, "commandstats", "memory", "stats").Result()
		if err != nil {
			return c, fmt.Errorf("INFO of Redis: %w", err)
		}
		c.redis = ParseInfo(text)
	}
	c.cpu = l.mark()
	return c, nil
}

// Scrape reads a process's metrics: counters and gauges by name and labels, as
// in `lake_objects_requests_total{op="put",result="ok"}`, and by name alone
// their sums; of histograms the sums and counts.
func Scrape(ctx context.Context, url string) (Values, error) {
	body, err := fetch(ctx, url)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", url, err)
	}
	v := Values{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			labels := make([]string, len(m.GetLabel()))
			for i, p := range m.GetLabel() {
				labels[i] = fmt.Sprintf("%s=%q", p.GetName(), p.GetValue())
			}
			add := func(name string, x float64) {
				v[name] += x
				if len(labels) > 0 {
					v[name+"{"+strings.Join(labels, ",")+"}"] += x
				}
			}
			switch {
			case m.GetCounter() != nil:
				add(name, m.GetCounter().GetValue())
			case m.GetGauge() != nil:
				add(name, m.GetGauge().GetValue())
			case m.GetHistogram() != nil:
				add(name+"_sum", m.GetHistogram().GetSampleSum())
				add(name+"_count", float64(m.GetHistogram().GetSampleCount()))
			}
		}
	}
	return v, nil
}

// ParseInfo reads what Redis's INFO says of its work: "calls" and "usec" of all
// commands as clients sent them (those within scripts are the scripts' own),
// "commands" with those within scripts, and "used_memory".
func ParseInfo(text string) Values {
	v := Values{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		if name, ok := strings.CutPrefix(key, "cmdstat_"); ok {
			calls, usec := 0.0, 0.0
			for _, field := range strings.Split(value, ",") {
				k, x, _ := strings.Cut(field, "=")
				n, err := strconv.ParseFloat(x, 64)
				if err != nil {
					continue
				}
				switch k {
				case "calls":
					calls = n
				case "usec":
					usec = n
				}
			}
			v["commands"] += calls
			if strings.HasPrefix(name, "eval") {
				v["script_calls"] += calls
				v["script_usec"] += usec
			}
			continue
		}
		if x, err := strconv.ParseFloat(value, 64); err == nil && (key == "used_memory" || key == "total_net_input_bytes" || key == "total_net_output_bytes") {
			v[key] = x
		}
	}
	return v
}

// per gives what n operations cost between two moments.
func (c counts) per(before counts, n float64) Values {
	v := Values{}
	if n <= 0 {
		return v
	}
	children, own, others := c.cpu.since(before.cpu)
	v["others_cores"] = others
	total := 0.0
	for name, s := range children {
		v["cpu_us_"+name] = s * 1e6 / n
		total += s
	}
	if others >= 0 {
		v["cpu_us"] = total * 1e6 / n
		v["cpu_us_client"] = own * 1e6 / n
	}
	diff := func(name string) float64 { return c.metrics[name] - before.metrics[name] }
	if len(c.metrics) > 0 {
		v["puts_per_1000"] = diff(`lake_objects_requests_total{op="put",result="ok"}`) * 1000 / n
		if puts := diff(`lake_objects_request_duration_seconds_count{op="put"}`); puts > 0 { // as the lake sees them
			v["put_ms"] = diff(`lake_objects_request_duration_seconds_sum{op="put"}`) * 1e3 / puts
		}
		v["gets_per_1000"] = (diff(`lake_objects_requests_total{op="get",result="ok"}`) + diff(`lake_objects_requests_total{op="get_range",result="ok"}`)) * 1000 / n
		v["bytes_put_per_op"] = diff(`lake_objects_bytes_total{op="put"}`) / n
		v["events_per_1000"] = diff("lake_relay_events_published_total") * 1000 / n
	}
	if len(c.redis) > 0 {
		v["redis_us"] = (c.redis["script_usec"] - before.redis["script_usec"]) / n
		v["redis_commands"] = (c.redis["commands"] - before.redis["commands"]) / n
		v["redis_script_calls_per_1000"] = (c.redis["script_calls"] - before.redis["script_calls"]) * 1000 / n
	}
	return v
}
