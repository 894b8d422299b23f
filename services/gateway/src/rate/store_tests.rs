//! The script against the reference, on a real Redis, with the clock of the trace in place of Redis's own.
use deadpool_redis::redis::{self, Client, Connection, Script};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::super::window::{Limit, Verdict, Window};

/// One argument carries the steps: time, then a cost for each key.
const REPLAY: &str = concat!(
    include_str!("window.lua"),
    "
local answers = {}
for now, one, other in string.gmatch(ARGV[7], '(%d+),(%d+),(%d+);') do
  local given = {ARGV[1], ARGV[2], ARGV[3], one, ARGV[4], ARGV[5], ARGV[6], other}
  local answer = decide(tonumber(now), KEYS, given)
  for place = 1, 5 do answers[#answers + 1] = answer[place] end
end
for _, key in ipairs(KEYS) do redis.call('DEL', key) end
return answers
"
);

const STEPS: usize = 500;

struct Trace {
    limits: [Limit; 2],
    steps: Vec<(u64, [u32; 2])>,
}

fn trace(random: &mut StdRng) -> Trace {
    let limits = [(); 2].map(|()| {
        let units = match random.random_range(0..8) {
            0..4 => random.random_range(1..=128),
            4..7 => random.random_range(129..=300),
            _ => random.random_range(65_536..=70_000),
        };
        Limit::new(units, 1_000_000 * 60 * random.random_range(1..=60))
    });
    let mut now: u64 = random.random_range(1_000_000_000_000..2_000_000_000_000_000);
    let shorter = limits[0].micros().min(limits[1].micros());
    let pace = random.random_range(1..=3);
    let steps = (0..STEPS).map(|_| {
        now += match random.random_range(0..20 * pace) {
            0 => random.random_range(0..=shorter * 3 / 2),
            1..4 => random.random_range(0..=shorter / 10),
            _ => random.random_range(0..=shorter / 200),
        };
        if random.random_range(0..100) == 0 {
            now -= random.random_range(0..=shorter * 2);
        }
        let cost = |limit: Limit, random: &mut StdRng| random.random_range(1..=(limit.units() / 8).max(1));
        (now, [cost(limits[0], random), cost(limits[1], random)])
    });
    let steps = steps.collect();
    Trace { limits, steps }
}

/// What the reference answers, all or nothing.
fn expected(trace: &Trace) -> Vec<i64> {
    let mut windows = trace.limits.map(Window::new);
    let mut answers = Vec::new();
    for (now, costs) in &trace.steps {
        let mut verdicts = Vec::new();
        // What is refused is not stored, not even that time has passed: it shows when the clock is set back.
        for (place, window) in windows.clone().iter_mut().enumerate() {
            verdicts.push(window.check(trace.limits[place], *now, costs[place]));
        }
        let admitted = verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Admits { .. }));
        answers.push(i64::from(admitted));
        for verdict in verdicts {
            answers.extend(match verdict {
                Verdict::Admits { remaining, restored } => [i64::from(remaining), restored.cast_signed()],
                Verdict::Refuses { retry } => [-1, retry.cast_signed()],
            });
        }
        if admitted {
            for (place, window) in windows.iter_mut().enumerate() {
                window.take(trace.limits[place], *now, costs[place]);
            }
        }
    }
    answers
}

fn replayed(connection: &mut Connection, script: &Script, prefix: &str, trace: &Trace) -> Vec<i64> {
    let mut call = script.prepare_invoke();
    call.key(format!("{prefix}:one")).key(format!("{prefix}:other"));
    for limit in trace.limits {
        let kind = limit.kind();
        call.arg(kind).arg(limit.units()).arg(limit.micros());
    }
    let steps = trace
        .steps
        .iter()
        .map(|(now, [one, other])| format!("{now},{one},{other};"));
    call.arg(steps.collect::<String>());
    call.invoke(connection).expect("the script runs")
}

#[test]
fn the_script_decides_a_million_random_calls_as_the_reference_does() {
    let client = Client::open(testkit::Redis::shared().url.as_str()).expect("a URL");
    let mut connection = client.get_connection().expect("Redis");
    let script = Script::new(REPLAY);
    let prefix = testkit::Redis::prefix();
    let mut random = StdRng::seed_from_u64(7);
    let mut admitted = 0;
    for number in 0..1_000_000 / STEPS {
        let trace = trace(&mut random);
        let expected = expected(&trace);
        let answers = replayed(&mut connection, &script, &prefix, &trace);
        for (step, (right, answer)) in expected.chunks(5).zip(answers.chunks(5)).enumerate() {
            assert_eq!(
                right,
                answer,
                "trace {number}, step {step}: {:?} {:?}",
                trace.limits,
                &trace.steps[..=step]
            );
            admitted += right[0];
        }
        assert_eq!(expected.len(), answers.len());
    }
    let _: () = redis::cmd("PING").query(&mut connection).expect("Redis lives");
    // The traces try both answers.
    assert!((50_000..950_000).contains(&admitted), "{admitted}");
}
