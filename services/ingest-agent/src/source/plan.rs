//! Where a session begins to read, decided before anything is read: go on, begin, or begin anew and say what is missing.

use binlog::{FileName, Gtid, GtidSet, LogPos};
use trail::{Resume, Source, Start as Begin};
use types::Code;

use super::fault::Fault;
use crate::{error::Error, options::Start};

/// What the server says, as far as the decision needs it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) source: Source,
    /// What the server has executed. MySQL counts a transaction only after it stands in the log; for MariaDB this is what precedes `end`.
    pub(super) executed: GtidSet,
    pub(super) has_gtids: bool,
    pub(super) end: LogPos,
    /// Oldest first, with their lengths.
    pub(super) logs: Vec<LogPos>,
    /// MariaDB: the last transaction of each domain before the place where the store ends; none if the server cannot tell.
    pub(super) before_resume: Option<GtidSet>,
    /// The place that the GTIDs of `--start` stand for, and what precedes it.
    pub(super) located: Option<(LogPos, GtidSet)>,
}

/// Decides where to read from. `purged` is what the server said when it could not serve the place to go on from.
pub(super) fn plan(
    what: &str,
    state: State,
    resume: Option<Resume>,
    wanted: Option<&Start>,
    purged: Option<&str>,
) -> Result<Begin, Fault> {
    match resume {
        None => first(what, state, wanted.unwrap_or(&Start::Now)).map_err(Fault::Permanent),
        Some(resume) => {
            check_source(what, &state.source, &resume).map_err(Fault::Permanent)?;
            check_start(&resume, wanted).map_err(Fault::Permanent)?;
            go_on(what, state, &resume, purged)
        }
    }
}

fn oldest(what: &str, state: &State) -> Result<LogPos, Error> {
    let first = state
        .logs
        .first()
        .ok_or_else(|| Error::new(Code::Refused, what, "the server has no binary log"))?;
    Ok(LogPos {
        file: first.file.clone(),
        offset: 4,
    })
}

/// Refuses a set of transactions that stands for no place in this server's log.
pub(super) fn check_gtids(state: &State, after: &GtidSet) -> Result<(), Error> {
    let refused = |why: String| {
        Err(Error::new(Code::Refused, "--start", why)
            .hint("write --start now, oldest, or a place such as binlog.000003:4"))
    };
    if !state.has_gtids {
        return refused("the server gives its transactions no GTIDs (gtid_mode is not ON)".into());
    }
    if !is_mariadb(&state.source) && !state.executed.includes(after) {
        return refused(format!(
            "the server has not executed all of {after}: it has executed {}",
            state.executed
        ));
    }
    // Events tell the lower half of their offset only, and by GTID the server passes over what it does not send.
    if let Some(long) = state.logs.iter().find(|log| log.offset > u64::from(u32::MAX)) {
        return refused(format!(
            "{} is longer than 4 GiB, so that GTIDs cannot be turned into a place",
            long.file
        ));
    }
    Ok(())
}

fn first(what: &str, state: State, start: &Start) -> Result<Begin, Error> {
    let (at, gtids_before) = match start {
        Start::Now => (state.end, state.executed),
        Start::Oldest => (oldest(what, &state)?, GtidSet::default()),
        Start::At(at) => (at.clone(), GtidSet::default()),
        Start::After(gtids) => {
            check_gtids(&state, gtids)?;
            state
                .located
                .ok_or_else(|| Error::new(Code::Internal, "--start", "the place of the GTIDs is not known"))?
        }
    };
    Ok(Begin {
        source: state.source,
        epoch: 0,
        at,
        gtids_before,
        reason: None,
    })
}

fn check_source(what: &str, source: &Source, resume: &Resume) -> Result<(), Error> {
    let known = &resume.source;
    let same_server = known.server.is_empty() || known.server == source.server;
    if known.engine == source.engine && same_server {
        return Ok(());
    }
    let name = |source: &Source| {
        format!(
            "{} {}",
            source.engine,
            if source.server.is_empty() {
                &source.version
            } else {
                &source.server
            }
        )
    };
    Err(Error::new(
        Code::Refused,
        what,
        format!("this is {}, but the store follows {}", name(source), name(known)),
    )
    .hint("use another --store for this server"))
}

fn check_start(resume: &Resume, wanted: Option<&Start>) -> Result<(), Error> {
    match wanted {
        None => Ok(()),
        Some(Start::At(at)) if *at == resume.at => Ok(()),
        Some(_) => Err(Error::new(
            Code::Refused,
            "--start",
            format!("the store already goes up to {}", resume.at),
        )
        .hint("leave --start out to go on from there, or use another --store")),
    }
}

fn go_on(what: &str, state: State, resume: &Resume, purged: Option<&str>) -> Result<Begin, Fault> {
    let (epoch, at, reason) = match missing(&state, resume) {
        None => match purged {
            None => (resume.epoch, resume.at.clone(), None),
            // It lists the file all the same: to begin elsewhere would leave out what may still be read.
            Some(told) => return Err(Fault::Transient(Error::new(Code::Unavailable, what, told))),
        },
        Some(Missing::Anew(why)) => {
            let why = format!("{why}: it was reset, or restored from a backup");
            let at = oldest(what, &state).map_err(Fault::Permanent)?;
            (resume.epoch + 1, at, Some(why))
        }
        Some(Missing::Purged(next)) => {
            let told = purged.map(|told| format!(" ({told})")).unwrap_or_default();
            let why = format!("the server has purged its logs before {next}{told}");
            let at = LogPos {
                file: next,
                offset: 4,
            };
            (resume.epoch, at, Some(why))
        }
    };
    let gtids_before = if reason.is_none() {
        resume.gtids.clone()
    } else {
        GtidSet::default()
    };
    Ok(Begin {
        source: state.source,
        epoch,
        at,
        gtids_before,
        reason,
    })
}

/// Why reading cannot go on where the store ends.
enum Missing {
    /// The file is gone; the next one the server has.
    Purged(FileName),
    /// The log is another one.
    Anew(String),
}

/// Whether the server seems to have been set back, although the place where the store ends exists. MySQL may have sent a transaction
/// that it has yet to count (with `sync_binlog=0` and a group commit delay, or while it waits for a semi-synchronous replica), so it
/// is asked again before that is believed.
pub(super) fn is_doubtful(state: &State, resume: &Resume) -> bool {
    state.source.server == resume.source.server
        && impossible(state, resume).is_none()
        && set_back(state, resume).is_some()
}

fn missing(state: &State, resume: &Resume) -> Option<Missing> {
    impossible(state, resume).or_else(|| set_back(state, resume).map(Missing::Anew))
}

/// What its transactions say: the log is not the one the store holds.
fn set_back(state: &State, resume: &Resume) -> Option<String> {
    if is_mariadb(&state.source) {
        let before = state.before_resume.as_ref()?;
        return (!is_same_log(before, &resume.gtids)).then(|| {
            format!(
                "the server's log holds {before} before {}, the store {}",
                resume.at, resume.gtids
            )
        });
    }
    let lacks = !state.executed.is_empty() && !state.executed.includes(&resume.gtids);
    lacks.then(|| {
        format!(
            "the server has executed {}, which lacks transactions the store holds",
            state.executed
        )
    })
}

fn is_mariadb(source: &Source) -> bool {
    source.engine == "mariadb"
}

/// Whether two lists of the last transaction per domain, taken at one place, are of the same log. A domain may be gone from the server's
/// list (`FLUSH BINARY LOGS DELETE_DOMAIN_ID`), or be missing in ours if reading began within a file. The number may be lower on the
/// server if the transaction came from another one: numbers go down without `gtid_strict_mode`, and we know the highest.
fn is_same_log(server: &GtidSet, ours: &GtidSet) -> bool {
    let known = last_of_domains(server);
    let mut shared = 0;
    for (domain, origin, number) in last_of_domains(ours) {
        let Some((_, their_origin, their_number)) = known.iter().find(|(other, _, _)| *other == domain)
        else {
            continue;
        };
        shared += 1;
        let went_down = *their_origin != origin && *their_number < number;
        if (*their_origin, *their_number) != (origin, number) && !went_down {
            return false;
        }
    }
    shared > 0 || ours.is_empty()
}

fn last_of_domains(set: &GtidSet) -> Vec<(u32, u32, u64)> {
    let last = |text: &str| match text.parse() {
        Ok(Gtid::Mariadb {
            domain,
            server,
            number,
        }) => Some((domain, server, number)),
        _ => None,
    };
    set.to_string().split(',').filter_map(last).collect()
}

/// What its files say: the place where the store ends is not in them.
fn impossible(state: &State, resume: &Resume) -> Option<Missing> {
    let at = &resume.at;
    match state.logs.iter().find(|log| log.file == at.file) {
        Some(log) if at.offset <= log.offset.max(4) => None,
        Some(log) => Some(Missing::Anew(format!(
            "the server's {} ends at {}, before {}",
            log.file, log.offset, at.offset
        ))),
        None if state.logs.is_empty() => None,
        None => Some(match state.logs.iter().find(|log| at.file < log.file) {
            Some(next) => Missing::Purged(next.file.clone()),
            None => Missing::Anew(format!(
                "the server's log ends with {}, before {}",
                state.end.file, at.file
            )),
        }),
    }
}

#[cfg(test)]
mod tests {
    use binlog::LogPos;
    use trail::{Resume, Source};

    use super::{State, check_gtids, is_doubtful, plan};
    use crate::options::Start;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn source(server: &str) -> Source {
        Source {
            engine: "mysql".into(),
            version: "8.0.45".into(),
            server: server.into(),
            host: None,
        }
    }

    fn state() -> State {
        State {
            source: source(UUID),
            executed: format!("{UUID}:1-50").parse().expect("a set"),
            has_gtids: true,
            end: LogPos::new("binlog.000005", 900),
            logs: vec![
                LogPos::new("binlog.000003", 500),
                LogPos::new("binlog.000004", 700),
                LogPos::new("binlog.000005", 900),
            ],
            before_resume: None,
            located: None,
        }
    }

    fn resume(file: &str, offset: u64, gtids: u64) -> Option<Resume> {
        let gtids = format!("{UUID}:1-{gtids}").parse().expect("a set");
        Some(Resume {
            epoch: 2,
            at: LogPos::new(file, offset),
            gtids,
            source: source(UUID),
        })
    }

    fn begins(begin: &trail::Start) -> (u32, String, bool) {
        (begin.epoch, begin.at.to_string(), begin.reason.is_some())
    }

    #[test]
    fn an_empty_store_begins_where_it_is_told() {
        let at = |start| {
            plan("db", state(), None, Some(start), None)
                .map(|plan| begins(&plan).1)
                .expect("a plan")
        };
        assert_eq!(at(&Start::Now), "binlog.000005:900");
        assert_eq!(at(&Start::Oldest), "binlog.000003:4");
        assert_eq!(
            at(&Start::At(LogPos::new("binlog.000004", 120))),
            "binlog.000004:120"
        );
        let after = Start::After(format!("{UUID}:1-7").parse().expect("a set"));
        let place = LogPos::new("binlog.000003", 310);
        let located = State {
            located: Some((place, format!("{UUID}:1-7").parse().expect("a set"))),
            ..state()
        };
        let by_gtid = plan("db", located, None, Some(&after), None).expect("a plan");
        assert_eq!(begins(&by_gtid).1, "binlog.000003:310");
        assert!(plan("db", state(), None, Some(&after), None).is_err());
    }

    #[test]
    fn gtids_that_the_server_has_not_executed_are_no_place() {
        let set = |text: &str| format!("{UUID}:{text}").parse().expect("a set");
        assert!(check_gtids(&state(), &set("1-22:24")).is_ok());
        assert!(check_gtids(&state(), &set("1-51")).is_err());
        let mut long = state();
        long.logs[0].offset = 1 << 33;
        assert!(check_gtids(&long, &set("1-22")).is_err());
    }

    #[test]
    fn mariadb_is_judged_by_what_stands_before_the_place() {
        let judged = |server: &str, ours: &str| {
            let mut state = state();
            state.source.engine = "mariadb".into();
            state.before_resume = Some(server.parse().expect("a set"));
            let resume = Resume {
                source: state.source.clone(),
                gtids: ours.parse().expect("a set"),
                ..resume("binlog.000004", 600, 1).expect("a place")
            };
            begins(&plan("db", state, Some(resume), None, None).expect("a plan")).0
        };
        for (server, ours) in [
            ("0-1-40", "0-1-40"),
            ("0-1-40,1-1-7", "0-1-40"),
            ("0-1-40", "0-1-40,1-1-7"),
            ("0-2-5000", "0-1-10000"),
        ] {
            assert_eq!(judged(server, ours), 2, "{server} {ours}");
        }
        for (server, ours) in [("0-1-39", "0-1-40"), ("0-2-41", "0-1-40"), ("", "0-1-40")] {
            assert_eq!(judged(server, ours), 3, "{server} {ours}");
        }
    }

    #[test]
    fn only_a_place_that_exists_is_doubtful() {
        let doubt =
            |file, offset, gtids| is_doubtful(&state(), &resume(file, offset, gtids).expect("a place"));
        assert!(doubt("binlog.000004", 600, 51));
        assert!(!doubt("binlog.000004", 600, 50));
        assert!(!doubt("binlog.000005", 901, 51));
    }

    #[test]
    fn a_store_goes_on_where_it_ends() {
        let plan = plan("db", state(), resume("binlog.000004", 600, 40), None, None).expect("a plan");
        assert_eq!(begins(&plan), (2, "binlog.000004:600".into(), false));
    }

    #[test]
    fn purged_logs_become_a_gap_in_the_same_epoch() {
        let gone = plan("db", state(), resume("binlog.000001", 600, 10), None, None).expect("a plan");
        assert_eq!(begins(&gone), (2, "binlog.000003:4".into(), true));
        let told = Some("Could not find first log file");
        let listed = plan("db", state(), resume("binlog.000004", 600, 40), None, told);
        assert!(listed.is_err(), "what the server lists is not given up");
    }

    #[test]
    fn a_server_set_back_begins_a_new_epoch() {
        for lost in [
            resume("binlog.000005", 901, 50),
            resume("binlog.000006", 4, 50),
            resume("binlog.000004", 600, 51),
        ] {
            let plan = plan("db", state(), lost, None, None).expect("a plan");
            assert_eq!(begins(&plan), (3, "binlog.000003:4".into(), true));
        }
    }

    #[test]
    fn another_server_or_another_start_is_refused() {
        let other = Resume {
            source: source("other"),
            ..resume("binlog.000004", 600, 40).expect("a place")
        };
        assert!(plan("db", state(), Some(other), None, None).is_err());
        assert!(
            plan(
                "db",
                state(),
                resume("binlog.000004", 600, 40),
                Some(&Start::Now),
                None
            )
            .is_err()
        );
        let same = Start::At(LogPos::new("binlog.000004", 600));
        assert!(plan("db", state(), resume("binlog.000004", 600, 40), Some(&same), None).is_ok());
    }
}
