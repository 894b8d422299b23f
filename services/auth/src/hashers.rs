//! Password hashing on threads of its own, within a bound of memory.
//!
//! Each thread holds the memory of one hash and works alone; twice as many hashes may wait, and what comes beyond is told to come back. A
//! hash whose caller has gone is not computed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Instant,
};

use argon2::Block;
use tokio::sync::oneshot;
use types::Secret;

use crate::{
    Error,
    domain::password::{self, Cost, Unreadable},
};

/// The pool. Its threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct Hashers {
    jobs: SyncSender<Job>,
    cost: Cost,
    /// The hash that stands for every account there is not.
    dummy: Secret<String>,
}

enum Job {
    Hash(Secret<String>, oneshot::Sender<Result<String, Unreadable>>),
    Check(
        Secret<String>,
        Secret<String>,
        oneshot::Sender<Result<bool, Unreadable>>,
    ),
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Whether the password is that of the account.
    pub(crate) right: bool,
    /// Whether the stored hash was made at another cost than today's.
    pub(crate) outdated: bool,
}

impl Hashers {
    /// Starts `workers` threads.
    pub(crate) fn start(cost: Cost, workers: usize) -> Result<Self, Error> {
        let params = cost.params();
        let params =
            params.ok_or_else(|| Error::Internal("argon2 cannot be computed at this cost".to_owned()))?;
        let (jobs, queue) = sync_channel(workers * 2);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..workers {
            let (queue, params) = (queue.clone(), params.clone());
            thread::Builder::new()
                .name(format!("argon2-{number}"))
                .spawn(move || work(&queue, &params))
                .map_err(|error| Error::Internal(format!("no thread for password hashes: {error}")))?;
        }
        let nobody: [u8; 16] = rand::random();
        let dummy = password::hash(&format!("{nobody:?}"), &params, &mut Vec::new());
        let dummy = dummy.map_err(|Unreadable| Error::Internal("argon2 failed".to_owned()))?;
        Ok(Self {
            jobs,
            cost,
            dummy: Secret::new(dummy),
        })
    }

    /// A new hash of a password.
    pub(crate) async fn hash(&self, password: Secret<String>, deadline: Instant) -> Result<String, Error> {
        let (answer, result) = oneshot::channel();
        self.submit(Job::Hash(password, answer))?;
        wait(result, deadline).await
    }

    /// Checks a password against an account's hash; without one it does the same work and is wrong.
    pub(crate) async fn check(
        &self,
        password: Secret<String>,
        phc: Option<&Secret<String>>,
        deadline: Instant,
    ) -> Result<Checked, Error> {
        let real = phc.is_some() && password::is_plausible(password.expose());
        let stored = phc.unwrap_or(&self.dummy);
        let outdated = password::is_outdated(stored.expose(), self.cost);
        let (answer, result) = oneshot::channel();
        self.submit(Job::Check(password, stored.clone(), answer))?;
        let equal = wait(result, deadline).await?;
        Ok(Checked {
            right: real && equal,
            outdated,
        })
    }

    fn submit(&self, job: Job) -> Result<(), Error> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Disconnected(_) => {
                Error::Internal("no thread hashes passwords any more".to_owned())
            }
        })
    }
}

async fn wait<T>(result: oneshot::Receiver<Result<T, Unreadable>>, deadline: Instant) -> Result<T, Error> {
    match tokio::time::timeout_at(deadline.into(), result).await {
        Err(_) => Err(Error::DeadlineExceeded),
        Ok(Err(_)) => Err(Error::Internal(
            "the thread that hashed a password ended".to_owned(),
        )),
        Ok(Ok(Err(Unreadable))) => Err(Error::Corrupt {
            what: "password hash",
            why: "it is no PHC string of argon2id".to_owned(),
        }),
        Ok(Ok(Ok(value))) => Ok(value),
    }
}

fn work(queue: &Mutex<Receiver<Job>>, params: &argon2::Params) {
    let mut memory: Vec<Block> = Vec::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        // Nobody waits any more for what is dropped here; and the receiver's error means that the pool is gone.
        match job {
            Err(_) => return,
            Ok(Job::Hash(_, answer)) if answer.is_closed() => {}
            Ok(Job::Check(_, _, answer)) if answer.is_closed() => {}
            Ok(Job::Hash(password, answer)) => {
                let _ = answer.send(password::hash(password.expose(), params, &mut memory));
            }
            Ok(Job::Check(password, phc, answer)) => {
                let _ = answer.send(password::check(password.expose(), phc.expose(), &mut memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use types::{Code, Fault as _, Secret};

    use super::{Checked, Hashers};
    use crate::domain::password::Cost;

    const CHEAP: Cost = Cost {
        memory: 64,
        passes: 1,
        lanes: 1,
    };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_own_hash_only_and_never_without_an_account() {
        let hashers = Hashers::start(CHEAP, 2).unwrap();
        let phc = Secret::new(hashers.hash(secret("correct horse"), soon()).await.unwrap());
        let check = async |text: &str, phc| hashers.check(secret(text), phc, soon()).await.unwrap();
        let right = Checked {
            right: true,
            outdated: false,
        };
        assert_eq!(check("correct horse", Some(&phc)).await, right);
        assert!(!check("wrong horse", Some(&phc)).await.right);
        assert!(!check("correct horse", None).await.right);
        let dearer = Hashers::start(Cost { passes: 2, ..CHEAP }, 1).unwrap();
        let checked = dearer
            .check(secret("correct horse"), Some(&phc), soon())
            .await
            .unwrap();
        assert!(checked.right && checked.outdated);
    }

    #[tokio::test]
    async fn beyond_the_queue_callers_are_told_to_come_back() {
        // One hash takes long enough here that the queue fills while it runs.
        let slow = Cost {
            memory: 65_536,
            passes: 20,
            lanes: 1,
        };
        let hashers = Arc::new(Hashers::start(slow, 1).unwrap());
        let tasks: Vec<_> = (0..12)
            .map(|_| {
                let hashers = hashers.clone();
                let deadline = Instant::now() + Duration::from_millis(200);
                tokio::spawn(async move { hashers.hash(secret("correct horse"), deadline).await })
            })
            .collect();
        let mut busy = 0;
        for task in tasks {
            let error = task.await.unwrap().unwrap_err();
            match error.code() {
                Code::Unavailable => busy += 1,
                code => assert_eq!(code, Code::Timeout),
            }
            assert_eq!(error.code() == Code::Unavailable, error.retry_after().is_some());
        }
        assert!(busy >= 9, "{busy} of 12 were sent away; one runs and two wait");
    }
}
