//! `login` and `logout`: a session begins and ends.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proto::{
    auth::v1::{LogInRequest, LogInResponse, LogOutRequest, session_service_client::SessionServiceClient},
    tenant::v1::Membership,
};
use types::{Code, Secret};

use super::{
    block_on,
    prompt::{Terminal, password},
};
use crate::{
    cli::{args, note, report::print},
    error::Error,
    exit::Exit,
    remote::{
        Mesh, SHORT, Said,
        dial::{self, Trouble},
        fault::failure,
        profile::{self, Profile, Tenant},
        session,
    },
};

/// Codes that a person may mistype.
const CODES: u32 = 3;
/// A code of an authenticator has digits only and so many; a recovery code is something else.
const CODE_DIGITS: usize = 6;

/// `trail login`.
pub(in crate::cli) fn login(args: &args::Login) -> Result<Exit, Error> {
    let file = profile::Place::of(&args.door.profile)?;
    let known = file.load()?;
    let mesh = args.door.mesh.clone();
    let Some(mesh) = mesh.or_else(|| known.as_ref().map(|known| known.mesh.clone())) else {
        return Err(
            Error::new(Code::Invalid, "--mesh", "nothing says where the mesh is")
                .hint("give its address, as in: trail login --mesh https://mesh.example.com"),
        );
    };
    let place = dial::Place::parse(&mesh)?;
    let known = known.filter(|known| known.mesh == place.url);
    let ca = args.door.ca.as_deref().map(absolute).transpose()?;
    let ca = ca.or_else(|| known.as_ref().and_then(|known| known.ca.clone()));
    let tls = dial::tls(ca.as_deref())?;
    let mut terminal = Terminal::open();
    let email = email(args, known.as_ref(), &mut terminal)?;
    block_on(async {
        // Before the password is asked for, so that nobody types it in vain.
        let line = dial::channel(&place, tls).await?;
        let password = password(&mut terminal)?;
        let device_token = known
            .as_ref()
            .filter(|known| known.email == email)
            .map(|known| known.device_token.clone());
        let request = LogInRequest {
            email: email.clone(),
            device_token: device_token.unwrap_or_default(),
            ..LogInRequest::default()
        };
        let begin = Begin {
            line: &line,
            place: &place,
            request,
        };
        let answer = begin
            .session(&password, args.code.as_deref(), &mut terminal)
            .await?;
        let fresh = Profile {
            mesh: place.url.clone(),
            ca,
            email,
            tenant: known.and_then(|known| known.tenant),
            device_token: answer.device_token,
            ..Profile::default()
        };
        let profile = session::with_tokens(fresh, answer.tokens.unwrap_or_default());
        {
            let _alone = file.lock()?;
            file.save(&profile)?;
        }
        let remembered = profile.tenant.clone();
        let mesh = Mesh::new(place.clone(), line.clone(), file.clone(), profile.clone());
        let tenant = choose(&mesh, args.door.tenant.as_deref(), remembered, &mut terminal).await?;
        let profile = {
            // Choosing may have renewed the session.
            let _alone = file.lock()?;
            let there = file.load()?.unwrap_or(profile);
            let profile = Profile { tenant, ..there };
            file.save(&profile)?;
            profile
        };
        print(&format!("logged in to {} as {}\n", profile.mesh, profile.email))?;
        match &profile.tenant {
            Some(tenant) => note::note(&format!("tenant {} ({})", tenant.name, tenant.id)),
            None => note::note("no tenant is chosen; name one with --tenant"),
        }
        note::note(&format!("the session is in {}", file.file.display()));
        Ok(Exit::Done)
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(path).map_err(|error| Error::from_io(path.display(), &error))
}

fn email(
    args: &args::Login,
    known: Option<&Profile>,
    terminal: &mut Option<Terminal>,
) -> Result<String, Error> {
    if let Some(email) = &args.email {
        return Ok(email.clone());
    }
    let usual = known.map(|known| known.email.clone());
    let Some(terminal) = terminal else {
        return usual.ok_or_else(|| Error::new(Code::Invalid, "--email", "nobody says who logs in"));
    };
    let question = match &usual {
        Some(usual) => format!("address [{usual}]: "),
        None => "address: ".to_owned(),
    };
    let typed = terminal.ask(&question)?.trim().to_owned();
    if typed.is_empty() {
        usual.ok_or_else(|| Error::new(Code::Invalid, "--email", "nobody says who logs in"))
    } else {
        Ok(typed)
    }
}

/// A login on its way.
struct Begin<'a> {
    line: &'a (tonic::transport::Channel, Trouble),
    place: &'a dial::Place,
    request: LogInRequest,
}

impl Begin<'_> {
    /// Logs in, with the code of the second factor if one is given or asked for.
    async fn session(
        &self,
        password: &Secret<String>,
        code: Option<&str>,
        terminal: &mut Option<Terminal>,
    ) -> Result<LogInResponse, Error> {
        let mut code = code.map(|code| code.trim().to_owned());
        for tried in 0.. {
            let said = match self.attempt(password, code.as_deref()).await {
                Ok(answer) => return Ok(answer),
                Err(said) => said,
            };
            let asked = matches!(said.reason.as_str(), "MFA_CODE_REQUIRED" | "MFA_CODE_INVALID");
            match terminal {
                Some(terminal) if asked && tried < CODES => {
                    if said.reason == "MFA_CODE_INVALID" {
                        terminal.tell("that code does not count; each works once")?;
                    }
                    code = Some(terminal.ask("code of your authenticator: ")?.trim().to_owned());
                }
                _ => return Err(failure("the login", &said, self.place, &self.line.1)),
            }
        }
        Err(Error::new(Code::Unauthenticated, "the login", "no code counted"))
    }

    async fn attempt(&self, password: &Secret<String>, code: Option<&str>) -> Result<LogInResponse, Said> {
        let mut request = self.request.clone();
        request.password.clone_from(password.expose());
        let digits = |code: &str| code.len() == CODE_DIGITS && code.bytes().all(|byte| byte.is_ascii_digit());
        let (code, recovery) = match code {
            Some(code) if !digits(code) => (None, Some(code)),
            code => (code, None),
        };
        request.recovery_code = recovery.unwrap_or_default().to_owned();
        session::log_in(self.line.0.clone(), request, code).await
    }
}

/// The tenant on whose behalf this profile asks: the one that is named, the one there is, or the one that the person picks.
async fn choose(
    mesh: &Mesh,
    named: Option<&str>,
    remembered: Option<Tenant>,
    terminal: &mut Option<Terminal>,
) -> Result<Option<Tenant>, Error> {
    let memberships = mesh.memberships().await?;
    let mut tenants: Vec<Tenant> = memberships.into_iter().filter_map(tenant).collect();
    if let Some(named) = named {
        let id = mesh.tenant_of(named).await?;
        let found = tenants.into_iter().find(|tenant| tenant.id == id);
        return found.map(Some).ok_or_else(|| {
            Error::new(
                Code::Missing,
                format!("tenant {named}"),
                "you are a member of no such tenant",
            )
            .hint("the session is kept; trail whoami lists your tenants")
        });
    }
    if let Some(remembered) = remembered
        && let Some(found) = tenants.iter().find(|tenant| tenant.id == remembered.id)
    {
        return Ok(Some(found.clone()));
    }
    if tenants.len() < 2 {
        return Ok(tenants.pop());
    }
    let Some(terminal) = terminal else {
        return Ok(None);
    };
    for (number, tenant) in tenants.iter().enumerate() {
        terminal.tell(&format!("{:>3}  {} ({})", number + 1, tenant.name, tenant.id))?;
    }
    let picked = terminal.ask("which tenant (its number, or nothing for none): ")?;
    let picked: Option<usize> = picked.trim().parse().ok();
    Ok(picked
        .and_then(|number| number.checked_sub(1))
        .and_then(|index| tenants.get(index).cloned()))
}

fn tenant(membership: Membership) -> Option<Tenant> {
    let tenant = membership.tenant?;
    Some(Tenant {
        id: tenant.id,
        name: tenant.name,
    })
}

/// `trail logout`.
pub(in crate::cli) fn logout(args: &args::Door) -> Result<Exit, Error> {
    let file = profile::Place::of(&args.profile)?;
    let Some(profile) = file.load()? else {
        note::note(&format!("nobody is logged in under the profile {}", args.profile));
        return Ok(Exit::Done);
    };
    let ended = block_on(async {
        let place = dial::Place::parse(&profile.mesh)?;
        let ca = args.ca.clone().or_else(|| profile.ca.clone());
        let line = dial::channel(&place, dial::tls(ca.as_deref())?).await?;
        let mesh = Mesh::new(place, line, file.clone(), profile);
        let asked = mesh.ask(
            "the session",
            LogOutRequest {},
            SHORT,
            |channel, request| async move { SessionServiceClient::new(channel).log_out(request).await },
        );
        asked.await.map(drop)
    });
    // A session that has ended already is no reason to keep its file.
    let over = matches!(&ended, Err(Error::Failed(failure)) if failure.code == Code::Unauthenticated || failure.code == Code::Invalid);
    file.remove()?;
    match ended {
        Err(Error::Failed(failure)) if !over => Err(Error::Failed(failure)
            .hint("the profile is deleted all the same; the session ends by itself, or in the mesh's list of sessions")),
        _ => {
            print("logged out\n")?;
            Ok(Exit::Done)
        }
    }
}
