//! Mails: written to a table in the transaction of what they are about, and sent by a task afterwards.
//!
//! A request for a mail to an address (sign-up, reset) does one and the same thing whether or not the address has an account: it writes down
//! what was asked. Only the task that sends looks. So neither the answer nor the time it takes tells a stranger anything. A mail goes out at
//! least once, also when the process dies between the commit and the sending.

mod courier;
mod letter;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use types::UserId;
use url::Url;
use uuid::Uuid;

pub(crate) use courier::Courier;
pub(crate) use letter::{Invitation, Letter, Notice};

use crate::{
    Error,
    domain::{email::Email, token::sha256},
    history::{self, Call, From},
    seal::Sealer,
    store::{self, outbox::Allowance},
};

/// What a stranger asked for, before anybody has looked whether the address is known.
#[derive(Serialize, Deserialize)]
pub(crate) enum Ask {
    /// An account.
    SignUp {
        email: String,
        display_name: String,
        /// The argon2id hash of the password.
        phc: String,
        #[serde(default)]
        from: From,
    },
    /// The mail of the sign-up once more.
    Verification {
        email: String,
        #[serde(default)]
        from: From,
    },
    /// A link that sets a new password.
    Reset {
        email: String,
        #[serde(default)]
        from: From,
    },
}

impl Ask {
    fn email(&self) -> &str {
        match self {
            Self::SignUp { email, .. } | Self::Verification { email, .. } | Self::Reset { email, .. } => {
                email
            }
        }
    }

    /// The call that it was, for the audit log.
    fn call(&self) -> Call {
        match self {
            Self::SignUp { from, .. } => Call::from(history::SIGN_UP, from.clone()),
            Self::Verification { from, .. } => Call::from(history::RESEND_VERIFICATION, from.clone()),
            Self::Reset { from, .. } => Call::from(history::REQUEST_PASSWORD_RESET, from.clone()),
        }
    }
}

/// The table of mails.
#[derive(Clone)]
pub(crate) struct Outbox {
    sealer: Sealer,
    public_url: Url,
    wake: Arc<Notify>,
}

impl Outbox {
    pub(crate) fn new(sealer: Sealer, public_url: Url) -> Self {
        Self {
            sealer,
            public_url,
            wake: Arc::new(Notify::new()),
        }
    }

    /// Writes down what a stranger asked for.
    pub(crate) async fn ask(&self, tx: &mut pg::Transaction, ask: &Ask) -> Result<(), Error> {
        let to = store::account::stored_email(ask.email())?;
        self.put(tx, &to, ask, false, None).await
    }

    /// Queues a letter about something that happened to an account.
    pub(crate) async fn notice(
        &self,
        tx: &mut pg::Transaction,
        user: UserId,
        notice: Notice,
    ) -> Result<(), Error> {
        let account = store::account::get(tx, user).await?;
        let to = store::account::stored_email(&account.email)?;
        let when = store::now(tx).await?;
        self.letter(tx, &to, &letter::notice(&to, &notice, when), None)
            .await
    }

    /// Queues an invitation, unless the address got so many that it gets no more for now.
    pub(crate) async fn invitation(
        &self,
        tx: &mut pg::Transaction,
        invitation: &Invitation,
    ) -> Result<(), Error> {
        let to = &invitation.to;
        if !self.allows(tx, to, Allowance::Invitation).await? {
            return Err(Error::TooManyInvitations);
        }
        let letter = letter::invitation(&self.public_url, invitation);
        self.letter(tx, to, &letter, Some(Allowance::Invitation)).await
    }

    async fn allows(
        &self,
        tx: &mut pg::Transaction,
        to: &Email,
        allowance: Allowance,
    ) -> Result<bool, Error> {
        let allows = store::outbox::allows(tx, sha256(to.key().as_bytes()), allowance).await?;
        if !allows {
            tracing::info!(?allowance, "an address gets no more mails of this kind for now");
        }
        Ok(allows)
    }

    /// Tells the sending task that something was committed.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    async fn letter(
        &self,
        tx: &mut pg::Transaction,
        to: &Email,
        letter: &Letter,
        allowance: Option<Allowance>,
    ) -> Result<(), Error> {
        self.put(tx, to, letter, true, allowance).await
    }

    async fn put<T: Serialize>(
        &self,
        tx: &mut pg::Transaction,
        to: &Email,
        body: &T,
        is_letter: bool,
        allowance: Option<Allowance>,
    ) -> Result<(), Error> {
        let clear = serde_json::to_vec(body).map_err(|error| Error::Internal(error.to_string()))?;
        let seal_id = Uuid::new_v4().to_string();
        let body = self.sealer.seal("outbox", &seal_id, "body", &clear)?;
        let new = store::outbox::New {
            seal_id,
            is_letter,
            to_key: sha256(to.key().as_bytes()),
            allowance,
            body,
        };
        store::outbox::put(tx, &new).await
    }

    fn open<T: for<'a> Deserialize<'a>>(&self, entry: &store::outbox::Entry) -> Result<T, Error> {
        let clear = self.sealer.open("outbox", &entry.seal_id, "body", &entry.body)?;
        serde_json::from_slice(clear.expose()).map_err(|error| Error::Corrupt {
            what: "mail",
            // The words of a syntax error never quote the text; those of a wrong type may.
            why: format!("line {}, column {}", error.line(), error.column()),
        })
    }
}
