//! Entries: such as the mesh makes, and such as nobody should.

use std::collections::BTreeMap;

use audit::{Actor, Event, Kind, Outcome, format::Source};

/// What is audited today, and a method that does not exist.
const METHODS: &[(&str, Kind)] = &[
    ("/trailmesh.auth.v1.AccountService/SignUp", Kind::Security),
    ("/trailmesh.auth.v1.AccountService/VerifyEmail", Kind::Security),
    (
        "/trailmesh.auth.v1.AccountService/ResendVerification",
        Kind::Security,
    ),
    ("/trailmesh.auth.v1.AccountService/ChangePassword", Kind::Security),
    (
        "/trailmesh.auth.v1.AccountService/RequestPasswordReset",
        Kind::Security,
    ),
    ("/trailmesh.auth.v1.AccountService/ResetPassword", Kind::Security),
    ("/trailmesh.auth.v1.ApiKeyService/CreateApiKey", Kind::Security),
    ("/trailmesh.auth.v1.ApiKeyService/RevokeApiKey", Kind::Security),
    ("/trailmesh.auth.v1.GuardService/ConsumeStepUp", Kind::Security),
    ("/trailmesh.auth.v1.MfaService/EnrolTotp", Kind::Security),
    ("/trailmesh.auth.v1.MfaService/ActivateTotp", Kind::Security),
    ("/trailmesh.auth.v1.MfaService/DisableTotp", Kind::Security),
    (
        "/trailmesh.auth.v1.MfaService/RegenerateRecoveryCodes",
        Kind::Security,
    ),
    ("/trailmesh.auth.v1.SessionService/LogIn", Kind::Security),
    ("/trailmesh.auth.v1.SessionService/RefreshSession", Kind::Security),
    ("/trailmesh.auth.v1.SessionService/LogOut", Kind::Security),
    ("/trailmesh.auth.v1.SessionService/RevokeSession", Kind::Security),
    (
        "/trailmesh.auth.v1.SessionService/RevokeOtherSessions",
        Kind::Security,
    ),
    (
        "/trailmesh.tenant.v1.AccessRuleService/CreateAccessRule",
        Kind::Change,
    ),
    (
        "/trailmesh.tenant.v1.AgentPoolService/DeleteAgentPool",
        Kind::Change,
    ),
    ("/trailmesh.tenant.v1.AgentService/CreateAgent", Kind::Security),
    ("/trailmesh.tenant.v1.AgentService/RevokeAgent", Kind::Security),
    ("/trailmesh.tenant.v1.AuditService/ListAuditEntries", Kind::Read),
    ("/trailmesh.tenant.v1.AuditService/ExportAuditEntries", Kind::Read),
    (
        "/trailmesh.tenant.v1.AuditSinkService/CreateAuditSink",
        Kind::Security,
    ),
    (
        "/trailmesh.tenant.v1.BillingService/CreateCheckoutLink",
        Kind::Change,
    ),
    ("/trailmesh.tenant.v1.MemberService/SetMemberRole", Kind::Change),
    ("/trailmesh.tenant.v1.MemberService/RemoveMember", Kind::Change),
    ("/trailmesh.tenant.v1.MemberService/InviteMember", Kind::Change),
    (
        "/trailmesh.tenant.v1.MemberService/AcceptInvitation",
        Kind::Change,
    ),
    ("/trailmesh.tenant.v1.ServerService/RegisterServer", Kind::Change),
    ("/trailmesh.tenant.v1.ServerService/UpdateServer", Kind::Change),
    ("/trailmesh.tenant.v1.ServerService/DeleteServer", Kind::Change),
    (
        "/trailmesh.tenant.v1.ServerService/SetServerCredential",
        Kind::Security,
    ),
    ("/trailmesh.tenant.v1.TenantService/CreateTenant", Kind::Change),
    ("/trailmesh.tenant.v1.TenantService/DeleteTenant", Kind::Change),
    (
        "/trailmesh.vault.v1.AgentIdentityService/EnrolAgent",
        Kind::Security,
    ),
    (
        "/trailmesh.vault.v1.AgentIdentityService/RenewCertificate",
        Kind::Security,
    ),
    (
        "/trailmesh.vault.v1.AgentIdentityService/OpenCredentials",
        Kind::Security,
    ),
    ("/trailmesh.vault.v1.KeyService/RotateKey", Kind::Security),
    ("/trailmesh.vault.v1.KeyService/RevokeKeyVersion", Kind::Security),
    ("/trailmesh.later.v1.NovelService/Frobnicate", Kind::Change),
];

/// What comes in, and what must be read at the other end.
pub(crate) const HOSTILE: &[(&str, &str)] = &[
    ("plain", "plain"),
    ("Zoë 東京 🦀", "Zoë 東京 🦀"),
    (
        "a\nCEF:0|Evil|Evil|1|1|owned|10|act=x",
        "a\\u{a}CEF:0|Evil|Evil|1|1|owned|10|act=x",
    ),
    (
        "a\r\n<13>1 - - - - - - owned",
        "a\\u{d}\\u{a}<13>1 - - - - - - owned",
    ),
    ("x outcome=success act=Nothing", "x outcome=success act=Nothing"),
    ("x|y|z", "x|y|z"),
    ("back\\slash\\", "back\\slash\\"),
    ("\\=\\|\\n\\\\", "\\=\\|\\n\\\\"),
    ("a\"] [evil@1 x=\"y", "a\"] [evil@1 x=\"y"),
    (
        "\"},\"outcome\":\"success\",\"x\":{\"",
        "\"},\"outcome\":\"success\",\"x\":{\"",
    ),
    ("nul\0nul", "nul\\u{0}nul"),
    (
        "line\u{2028}para\u{2029}next\u{85}",
        "line\\u{2028}para\\u{2029}next\\u{85}",
    ),
    (
        "\u{202e}gpj.exe\u{2066}\u{2069}",
        "\\u{202e}gpj.exe\\u{2066}\\u{2069}",
    ),
    (
        "\u{feff}\u{200b}hidden\u{e0061}",
        "\\u{feff}\\u{200b}hidden\\u{e0061}",
    ),
    (
        "\u{1b}[31mred\u{7}\u{8}\u{7f}\u{9b}",
        "\\u{1b}[31mred\\u{7}\\u{8}\\u{7f}\\u{9b}",
    ),
    ("replaced \u{fffd} bytes", "replaced \u{fffd} bytes"),
    ("<script>alert(1)</script>&amp;", "<script>alert(1)</script>&amp;"),
    (
        "${jndi:ldap://x/y} %n%s {{7*7}}",
        "${jndi:ldap://x/y} %n%s {{7*7}}",
    ),
    ("'; DROP TABLE audit_record; --", "'; DROP TABLE audit_record; --"),
];

pub(crate) fn source() -> Source {
    Source {
        tenant: "tnt_01hq0000000000000000000001".to_owned(),
        region: "eu".to_owned(),
    }
}

pub(crate) fn event() -> Event {
    Event {
        id: "aud_01hq0000000000000000000002".to_owned(),
        time: 1_700_000_000_123_456,
        end_time: 1_700_000_000_223_456,
        actor: Actor {
            user_id: "usr_01hq0000000000000000000003".to_owned(),
            session_id: "ses_01hq0000000000000000000004".to_owned(),
            role: "admin".to_owned(),
            ..Actor::default()
        },
        kind: Kind::Change,
        method: "/trailmesh.tenant.v1.ServerService/RegisterServer".to_owned(),
        path: "POST /v1/servers".to_owned(),
        targets: BTreeMap::from([(
            "server_id".to_owned(),
            "srv_01hq0000000000000000000005".to_owned(),
        )]),
        client_address: Some([203, 0, 113, 9].into()),
        user_agent: "curl/8.5.0".to_owned(),
        request_id: "req_01hq0000000000000000000006".to_owned(),
        outcome: Outcome::Succeeded,
        code: "OK".to_owned(),
        reason: String::new(),
        count: 1,
    }
}

/// Every method with every end and kind of actor.
pub(crate) fn real() -> Vec<Event> {
    let mut events = Vec::new();
    for (method, kind) in METHODS {
        for (outcome, code, reason) in [
            (Outcome::Succeeded, "OK", ""),
            (Outcome::Failed, "PERMISSION_DENIED", "ROLE_TOO_LOW"),
            (Outcome::Unknown, "UNKNOWN", ""),
        ] {
            for kind in [*kind, Kind::Refusal] {
                for actor in actors() {
                    events.push(Event {
                        method: (*method).to_owned(),
                        kind,
                        outcome,
                        code: code.to_owned(),
                        reason: reason.to_owned(),
                        client_address: match (actor.agent_id.as_str(), actor.key_id.as_str()) {
                            ("", "") => None,
                            ("", _) => Some("2001:db8::7".parse().unwrap()),
                            _ => Some("::ffff:192.0.2.1".parse().unwrap()),
                        },
                        actor,
                        ..event()
                    });
                }
            }
        }
    }
    events
}

fn actors() -> [Actor; 5] {
    let owned = str::to_owned;
    [
        event().actor,
        Actor {
            user_id: owned("usr_01hq0000000000000000000003"),
            key_id: owned("key_01hq0000000000000000000007"),
            role: owned("operator"),
            grant_id: owned("grt_01hq0000000000000000000008"),
            ..Actor::default()
        },
        Actor {
            agent_id: owned("agt_01hq0000000000000000000009"),
            ..Actor::default()
        },
        Actor {
            service: owned("vault"),
            ..Actor::default()
        },
        Actor::default(),
    ]
}

/// Each hostile text in every field at once.
pub(crate) fn hostile() -> Vec<(Event, &'static str)> {
    HOSTILE
        .iter()
        .map(|(wild, tame)| {
            let text = || (*wild).to_owned();
            let event = Event {
                id: text(),
                actor: Actor {
                    user_id: text(),
                    session_id: text(),
                    key_id: text(),
                    agent_id: text(),
                    service: text(),
                    role: text(),
                    grant_id: text(),
                },
                path: format!("GET {wild}"),
                targets: BTreeMap::from([("server_id".to_owned(), text()), (text(), text())]),
                user_agent: text(),
                request_id: text(),
                code: text(),
                reason: text(),
                outcome: Outcome::Failed,
                count: u64::MAX,
                ..event()
            };
            (event, *tame)
        })
        .collect()
}
