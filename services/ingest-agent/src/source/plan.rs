//! Where a session begins to read, decided before anything is read: go on, begin, or begin anew and say what is missing.

use binlog::{FileName, GtidSet, LogPos};
use trail::{Resume, Source, Start as Begin};
use types::Code;

use crate::{error::Error, options::Start};

/// What the server is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// Everything from this place on.
    Place(LogPos),
    /// Everything but these transactions.
    After(GtidSet),
}

/// What the server says, as far as the decision needs it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) source: Source,
    pub(super) executed: GtidSet,
    pub(super) has_gtids: bool,
    pub(super) end: LogPos,
    /// Oldest first, with their lengths.
    pub(super) logs: Vec<LogPos>,
}

/// The decision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) from: From,
    /// What the store is told; its place is the first transaction's if the server is asked by GTID.
    pub(super) begin: Begin,
}

/// Decides. `purged` is what the server said when it could not serve the place to go on from.
pub(super) fn plan(
    what: &str,
    state: State,
    resume: Option<Resume>,
    wanted: Option<&Start>,
    purged: Option<&str>,
) -> Result<Plan, Error> {
    match resume {
        None => first(what, state, wanted.unwrap_or(&Start::Now)),
        Some(resume) => {
            check_source(what, &state.source, &resume)?;
            check_start(&resume, wanted)?;
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

fn first(what: &str, state: State, start: &Start) -> Result<Plan, Error> {
    let (from, at, gtids_before) = match start {
        Start::Now => (From::Place(state.end.clone()), state.end, state.executed),
        Start::Oldest => {
            let at = oldest(what, &state)?;
            (From::Place(at.clone()), at, GtidSet::default())
        }
        Start::At(at) => (From::Place(at.clone()), at.clone(), GtidSet::default()),
        Start::After(_) if !state.has_gtids => {
            return Err(Error::new(
                Code::Refused,
                "--start",
                "the server gives its transactions no GTIDs (gtid_mode is not ON)",
            )
            .hint("write --start now, oldest, or a place such as binlog.000003:4"));
        }
        Start::After(gtids) => (From::After(gtids.clone()), state.end, gtids.clone()),
    };
    Ok(Plan {
        from,
        begin: Begin {
            source: state.source,
            epoch: 0,
            at,
            gtids_before,
            reason: None,
        },
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

fn go_on(what: &str, state: State, resume: &Resume, purged: Option<&str>) -> Result<Plan, Error> {
    let missing = match purged {
        Some(told) => Some((resume.epoch, told.to_owned())),
        None => missing(&state, resume),
    };
    let (epoch, at, reason) = match missing {
        None => (resume.epoch, resume.at.clone(), None),
        Some((epoch, reason)) => (epoch, oldest(what, &state)?, Some(reason)),
    };
    let gtids_before = if reason.is_none() {
        resume.gtids.clone()
    } else {
        GtidSet::default()
    };
    Ok(Plan {
        from: From::Place(at.clone()),
        begin: Begin {
            source: state.source,
            epoch,
            at,
            gtids_before,
            reason,
        },
    })
}

/// Why reading cannot go on where the store ends: the epoch to go on in, and the reason.
fn missing(state: &State, resume: &Resume) -> Option<(u32, String)> {
    let anew = |why: String| {
        Some((
            resume.epoch + 1,
            format!("{why}: it was reset, or restored from a backup"),
        ))
    };
    if !state.executed.is_empty() && !state.executed.includes(&resume.gtids) {
        return anew(format!(
            "the server has executed {}, which lacks transactions the store holds",
            state.executed
        ));
    }
    let at = &resume.at;
    match state.logs.iter().find(|log| log.file == at.file) {
        Some(log) if at.offset <= log.offset.max(4) => None,
        Some(log) => anew(format!(
            "the server's {} ends at {}, before {}",
            log.file, log.offset, at.offset
        )),
        None => {
            let first = state.logs.first()?;
            if is_before(&at.file, &first.file) {
                Some((
                    resume.epoch,
                    format!("the server has purged its logs before {}", first.file),
                ))
            } else {
                anew(format!(
                    "the server's log ends with {}, before {}",
                    state.end.file, at.file
                ))
            }
        }
    }
}

fn is_before(file: &FileName, first: &FileName) -> bool {
    file < first
}

#[cfg(test)]
mod tests {
    use binlog::LogPos;
    use trail::{Resume, Source};

    use super::{From, Plan, State, plan};
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

    fn begins(plan: &Plan) -> (u32, String, bool) {
        (
            plan.begin.epoch,
            plan.begin.at.to_string(),
            plan.begin.reason.is_some(),
        )
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
        let by_gtid = plan(
            "db",
            state(),
            None,
            Some(&Start::After(format!("{UUID}:1-7").parse().expect("a set"))),
            None,
        )
        .expect("a plan");
        assert!(matches!(by_gtid.from, From::After(_)));
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
        let told = plan(
            "db",
            state(),
            resume("binlog.000004", 600, 40),
            None,
            Some("Could not find first log file"),
        )
        .expect("a plan");
        assert_eq!(begins(&told), (2, "binlog.000003:4".into(), true));
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
