//! Everything that can be asked about rows, by every protocol.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use prost::Message;
use proto::{change::v1 as change, query::v1 as query, recovery::v1 as recovery};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::values::holds;
use crate::mesh::Caller;

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// JSON, and NDJSON where there are many messages.
    Json,
    /// gRPC.
    Grpc,
    /// gRPC-Web, whose trailers are in the body.
    GrpcWeb,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Json, Self::Grpc, Self::GrpcWeb];
}

/// What somebody gets who may not see everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restricted {
    /// An answer without what is hidden.
    Answered,
    /// A refusal for this reason.
    Refused(&'static str),
    /// Either.
    Either,
}

/// One question.
pub(super) struct Question {
    /// For people.
    pub(super) name: String,
    /// `/package.Service/Method`
    pub(super) method: &'static str,
    pub(super) restricted: Restricted,
    verb: Method,
    path: String,
    body: Value,
    message: Vec<u8>,
    /// Of an answer that does not end by itself: reading ends with this.
    until: Option<String>,
}

/// Which server is asked about, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// Its name or id.
    pub(super) server: &'a str,
    /// An undo plan of it.
    pub(super) plan: &'a str,
    /// The schema that is denied.
    pub(super) hidden: &'a str,
    /// A value of a key that is denied.
    pub(super) email: &'a str,
    /// What the last change left.
    pub(super) last: &'a str,
}

/// A filter in both languages.
#[derive(Clone, Default)]
struct Filter {
    tables: Vec<(String, String)>,
    column: String,
    keys: Vec<String>,
}

impl Filter {
    fn of(schema: &str, table: &str) -> Self {
        Self {
            tables: vec![(schema.to_owned(), table.to_owned())],
            ..Self::default()
        }
    }

    fn json(&self) -> Value {
        let tables: Vec<Value> = self.tables.iter().map(json_table).collect();
        json!({"tables": tables, "column": self.column, "keys": self.keys})
    }

    fn message(&self) -> change::Filter {
        change::Filter {
            tables: self.tables.iter().map(message_table).collect(),
            column: self.column.clone(),
            keys: self.keys.clone(),
            ..change::Filter::default()
        }
    }
}

fn json_table((schema, table): &(String, String)) -> Value {
    json!({"schema": schema, "table": table})
}

fn message_table((schema, table): &(String, String)) -> change::TableFilter {
    change::TableFilter {
        schema: schema.clone(),
        table: table.clone(),
    }
}

/// All of them; `transactions` are asked for one by one.
pub(super) fn questions(about: About<'_>, transactions: &[String]) -> Vec<Question> {
    let mut all = Vec::new();
    for (name, filter, restricted) in filters(about) {
        all.extend(by_filter(about, &name, &filter, restricted));
    }
    all.extend(by_table(about));
    for transaction in transactions {
        let message = query::GetTransactionRequest {
            server: about.server.to_owned(),
            transaction: transaction.clone(),
            ..Default::default()
        };
        let body = json!({"transaction": transaction});
        let name = format!("transaction {transaction}");
        let method = "/trailmesh.query.v1.QueryService/GetTransaction";
        all.push(post(
            about,
            &name,
            method,
            "changes:transaction",
            body,
            message,
            Restricted::Either,
        ));
    }
    all.extend(by_name(about));
    all.extend(about_plans(about));
    all
}

fn filters(about: About<'_>) -> Vec<(String, Filter, Restricted)> {
    let column = |mut filter: Filter, column: &str| {
        filter.column = column.to_owned();
        filter
    };
    let mut by_key = Filter::of("shop", "people");
    by_key.keys.push(about.email.to_owned());
    let orders = || Filter::of("shop", "orders");
    let mut both = orders();
    both.tables.push((about.hidden.to_owned(), "pay".to_owned()));
    let (seen, table, by_column) = (
        Restricted::Answered,
        Restricted::Refused("TABLE_DENIED"),
        Restricted::Refused("COLUMN_DENIED"),
    );
    [
        ("everything", Filter::default(), seen),
        ("orders", orders(), seen),
        ("people", Filter::of("shop", "people"), seen),
        ("the schema shop", Filter::of("shop", ""), seen),
        ("by a column that is seen", column(orders(), "status"), seen),
        ("the hidden table", Filter::of(about.hidden, "pay"), table),
        ("the hidden schema", Filter::of(about.hidden, ""), table),
        (
            "a hidden table that there is not",
            Filter::of(about.hidden, "nothing"),
            table,
        ),
        ("one table of two hidden", both, table),
        ("by a hidden column", column(orders(), "card"), by_column),
        (
            "by a hidden column, in capitals",
            column(orders(), "NOTE"),
            by_column,
        ),
        (
            "by a hidden column, anywhere",
            column(Filter::default(), "card"),
            by_column,
        ),
        ("by a hidden key", by_key, by_column),
    ]
    .map(|(name, filter, restricted)| (name.to_owned(), filter, restricted))
    .into()
}

fn by_filter(about: About<'_>, name: &str, filter: &Filter, restricted: Restricted) -> Vec<Question> {
    let server = about.server.to_owned();
    let (body, asked) = (filter.json(), Some(filter.message()));
    let pages = query::QueryChangesRequest {
        server: server.clone(),
        filter: asked.clone(),
        order: 1,
        ..Default::default()
    };
    let stream = query::StreamChangesRequest {
        server: server.clone(),
        filter: asked.clone(),
        ..Default::default()
    };
    let count = query::CountChangesRequest {
        server: server.clone(),
        filter: asked.clone(),
        limit: 0,
    };
    let follow = query::FollowChangesRequest {
        server,
        filter: asked,
        last: 1_000,
        ..Default::default()
    };
    let one = |method, path, body, message: Vec<u8>| Question {
        name: format!("{path}, {name}"),
        method,
        restricted,
        verb: Method::POST,
        path: format!("/v1/servers/{}/{path}", about.server),
        body,
        message,
        until: None,
    };
    let in_order = json!({"filter": body, "order": "ORDER_OLDEST"});
    let filter_only = json!({"filter": body});
    let mut all = vec![
        one(
            "/trailmesh.query.v1.QueryService/QueryChanges",
            "changes:query",
            in_order,
            pages.encode_to_vec(),
        ),
        one(
            "/trailmesh.query.v1.QueryService/StreamChanges",
            "changes:stream",
            filter_only.clone(),
            stream.encode_to_vec(),
        ),
        one(
            "/trailmesh.query.v1.QueryService/CountChanges",
            "changes:count",
            filter_only,
            count.encode_to_vec(),
        ),
    ];
    // Where no table is named, a follower by a hidden column is not refused: what it chooses is dropped silently.
    let refused = matches!(restricted, Restricted::Refused(_)) && !filter.tables.is_empty();
    if refused || filter.tables.is_empty() && filter.column.is_empty() {
        all.push(Question {
            until: Some(about.last.to_owned()),
            ..one(
                "/trailmesh.query.v1.QueryService/FollowChanges",
                "changes:follow",
                json!({"filter": body, "last": 1_000}),
                follow.encode_to_vec(),
            )
        });
    }
    all
}

fn post(
    about: About<'_>,
    name: &str,
    method: &'static str,
    path: &str,
    body: Value,
    message: impl Message,
    restricted: Restricted,
) -> Question {
    Question {
        name: name.to_owned(),
        method,
        restricted,
        verb: Method::POST,
        path: format!("/v1/servers/{}/{path}", about.server),
        body,
        message: message.encode_to_vec(),
        until: None,
    }
}

fn by_table(about: About<'_>) -> Vec<Question> {
    let mut all = Vec::new();
    for (schema, table, key, restricted) in [
        ("shop", "orders", "1", Restricted::Answered),
        (
            "shop",
            "people",
            about.email,
            Restricted::Refused("COLUMN_DENIED"),
        ),
        (about.hidden, "pay", "1", Restricted::Refused("TABLE_DENIED")),
    ] {
        let names = (schema.to_owned(), table.to_owned());
        let message = query::GetRowHistoryRequest {
            server: about.server.to_owned(),
            table: Some(message_table(&names)),
            key: key.to_owned(),
            ..Default::default()
        };
        let body = json!({"table": json_table(&names), "key": key});
        let name = format!("the history of a row of {table}");
        let method = "/trailmesh.query.v1.QueryService/GetRowHistory";
        all.push(post(
            about,
            &name,
            method,
            "changes:history",
            body,
            message,
            restricted,
        ));
    }
    all.extend(batches(about));
    all
}

fn batches(about: About<'_>) -> Vec<Question> {
    let mut all = Vec::new();
    for (tables, restricted) in [
        (
            &[("shop", "orders"), ("shop", "people")][..],
            Restricted::Answered,
        ),
        (
            &[("shop", "stock"), (about.hidden, "pay")],
            Restricted::Refused("TABLE_DENIED"),
        ),
    ] {
        let names: Vec<_> = tables
            .iter()
            .map(|(schema, table)| ((*schema).to_owned(), (*table).to_owned()))
            .collect();
        let queries = names.iter().map(|names| query::TableQuery {
            table: Some(message_table(names)),
            ..Default::default()
        });
        let message = query::BatchQueryRequest {
            server: about.server.to_owned(),
            queries: queries.collect(),
        };
        let queries: Vec<Value> = names
            .iter()
            .map(|names| json!({"table": json_table(names)}))
            .collect();
        let body = json!({"queries": queries});
        let name = format!("a batch of {tables:?}");
        let method = "/trailmesh.query.v1.QueryService/BatchQuery";
        all.push(post(
            about,
            &name,
            method,
            "changes:batch",
            body,
            message,
            restricted,
        ));
    }
    all
}

fn by_name(about: About<'_>) -> Vec<Question> {
    let server = || about.server.to_owned();
    let get = |method, path: &str, message: Vec<u8>| Question {
        name: path.to_owned(),
        method,
        restricted: Restricted::Answered,
        verb: Method::GET,
        path: format!("/v1/servers/{}/{path}", about.server),
        body: Value::Null,
        message,
        until: None,
    };
    let schema_changes = query::ListSchemaChangesRequest {
        server: server(),
        ..Default::default()
    };
    let of_table = query::ListSchemaChangesRequest {
        server: server(),
        schema: about.hidden.to_owned(),
        table: "pay".to_owned(),
        ..Default::default()
    };
    let method = "/trailmesh.query.v1.QueryService/ListSchemaChanges";
    vec![
        get(
            "/trailmesh.query.v1.QueryService/ListTables",
            "tables",
            query::ListTablesRequest { server: server() }.encode_to_vec(),
        ),
        get(method, "schema-changes", schema_changes.encode_to_vec()),
        Question {
            restricted: Restricted::Refused("TABLE_DENIED"),
            ..get(
                method,
                &format!("schema-changes?schema={}&table=pay", about.hidden),
                of_table.encode_to_vec(),
            )
        },
        get(
            "/trailmesh.query.v1.QueryService/GetCoverage",
            "coverage",
            query::GetCoverageRequest { server: server() }.encode_to_vec(),
        ),
        get(
            "/trailmesh.query.v1.QueryService/GetServerStatus",
            "status",
            query::GetServerStatusRequest { server: server() }.encode_to_vec(),
        ),
    ]
}

fn about_plans(about: About<'_>) -> Vec<Question> {
    let mut all = Vec::new();
    let column = Restricted::Refused("COLUMN_DENIED");
    for (name, filter, restricted) in [
        ("everything", Filter::of("shop", ""), column),
        ("orders", Filter::of("shop", "orders"), column),
        ("people", Filter::of("shop", "people"), column),
        ("stock", Filter::of("shop", "stock"), Restricted::Answered),
        (
            "the hidden table",
            Filter::of(about.hidden, "pay"),
            Restricted::Refused("TABLE_DENIED"),
        ),
    ] {
        let message = recovery::PlanUndoRequest {
            server: about.server.to_owned(),
            filter: Some(filter.message()),
            ..Default::default()
        };
        let body = json!({"filter": filter.json()});
        let name = format!("a plan about {name}");
        let method = "/trailmesh.recovery.v1.RecoveryService/PlanUndo";
        all.push(post(
            about,
            &name,
            method,
            "undo-plans",
            body,
            message,
            restricted,
        ));
    }
    let plan_id = || about.plan.to_owned();
    let get = |method, path: String, message: Vec<u8>, restricted| Question {
        name: path.clone(),
        method,
        restricted,
        verb: Method::GET,
        path,
        body: Value::Null,
        message,
        until: None,
    };
    all.extend([
        get(
            "/trailmesh.recovery.v1.RecoveryService/GetPlan",
            format!("/v1/undo-plans/{}", about.plan),
            recovery::GetPlanRequest { plan_id: plan_id() }.encode_to_vec(),
            Restricted::Either,
        ),
        get(
            "/trailmesh.recovery.v1.RecoveryService/GetScript",
            format!("/v1/undo-plans/{}/script", about.plan),
            recovery::GetScriptRequest { plan_id: plan_id() }.encode_to_vec(),
            column,
        ),
        Question {
            until: Some(about.plan.to_owned()),
            ..get(
                "/trailmesh.recovery.v1.RecoveryService/WatchPlan",
                format!("/v1/undo-plans/{}:watch", about.plan),
                recovery::WatchPlanRequest { plan_id: plan_id() }.encode_to_vec(),
                Restricted::Either,
            )
        },
    ]);
    all
}

/// The plans of a tenant, which is about no server in particular.
pub(super) fn plans() -> Question {
    Question {
        name: "the plans".to_owned(),
        method: "/trailmesh.recovery.v1.RecoveryService/ListPlans",
        restricted: Restricted::Answered,
        verb: Method::GET,
        path: "/v1/undo-plans".to_owned(),
        body: Value::Null,
        message: recovery::ListPlansRequest::default().encode_to_vec(),
        until: None,
    }
}

/// What came back.
pub(super) struct Heard {
    headers: BTreeMap<String, Vec<u8>>,
    status: u16,
    body: Vec<u8>,
}

const DETAILS: &str = "grpc-status-details-bin";

impl Heard {
    /// Every byte of it; what gRPC writes in base64 also as it is.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {:?}\n", self.status, self.headers).into_bytes();
        bytes.extend(self.headers.values().flatten());
        bytes.extend(&self.body);
        bytes.extend(self.details());
        bytes
    }

    /// Without what differs in each one: the request's id, the time, how much of a limit is left.
    pub(super) fn bare(&self) -> String {
        let request = &self.headers["x-request-id"];
        let request = String::from_utf8_lossy(request).into_owned();
        let kept = self
            .headers
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "x-request-id" | "date" | "ratelimit" | DETAILS));
        let mut text = self.status.to_string();
        for (name, value) in kept {
            text.push_str(&format!("\n{name}: {}", value.escape_ascii()));
        }
        let line = self.web_details().unwrap_or_default();
        let (before, after) = (
            self.body.len() - line.len(),
            line.iter().position(|byte| *byte == b'\n'),
        );
        let after = &line[after.unwrap_or(line.len())..];
        for part in [&self.body[..before], after, &self.details()] {
            text.push_str(&format!("\n{}", part.escape_ascii()));
        }
        text.replace(&request, "(request)")
    }

    /// Whether it is an answer and no refusal.
    pub(super) fn is_ok(&self) -> bool {
        let said = self.headers.get("grpc-status");
        (200..300).contains(&self.status)
            && said.is_none_or(|status| status == b"0")
            && (!holds(&self.body, "grpc-status:") || holds(&self.body, "grpc-status: 0\r\n"))
    }

    /// Whether it is a refusal for this reason.
    pub(super) fn is_refused(&self, reason: &str) -> bool {
        !self.is_ok() && holds(&self.bytes(), reason)
    }

    /// The trailers in the body from the line with the details on.
    fn web_details(&self) -> Option<&[u8]> {
        let name = format!("{DETAILS}:").into_bytes();
        let at = self.body.windows(name.len()).position(|window| window == name)?;
        Some(&self.body[at..])
    }

    fn details(&self) -> Vec<u8> {
        let in_body = self.web_details().map(|line| {
            let value = &line[DETAILS.len() + 1..];
            let end = value
                .iter()
                .position(|byte| *byte == b'\r')
                .unwrap_or(value.len());
            value[..end].trim_ascii()
        });
        let Some(value) = self.headers.get(DETAILS).map(Vec::as_slice).or(in_body) else {
            return Vec::new();
        };
        let value = value
            .strip_suffix(b"==")
            .or_else(|| value.strip_suffix(b"="))
            .unwrap_or(value);
        STANDARD_NO_PAD.decode(value).expect("base64")
    }

    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Question {
    /// Whether what it waits for comes for who sees everything.
    pub(super) fn ends_for_an_owner(&self) -> bool {
        !self.method.ends_with("FollowChanges") || self.restricted == Restricted::Answered
    }

    /// Begins to ask.
    pub(super) async fn begin(&self, caller: &Caller, protocol: Protocol) -> Response {
        let request = match protocol {
            Protocol::Json => {
                let request = caller
                    .client
                    .request(self.verb.clone(), format!("{}{}", caller.url, self.path));
                if self.body.is_null() {
                    request
                } else {
                    request
                        .header("content-type", "application/json")
                        .body(self.body.to_string())
                }
            }
            Protocol::Grpc | Protocol::GrpcWeb => {
                let length = u32::try_from(self.message.len()).expect("a length");
                let body = [&[0][..], &length.to_be_bytes(), &self.message].concat();
                let kind = match protocol {
                    Protocol::Grpc => "application/grpc",
                    _ => "application/grpc-web+proto",
                };
                let request = caller.client.post(format!("{}{}", caller.url, self.method));
                request
                    .header("content-type", kind)
                    .header("te", "trailers")
                    .body(body)
            }
        };
        let request = match caller.tenant.as_str() {
            "" => request,
            tenant => request.header("x-trailmesh-tenant", tenant),
        };
        request
            .bearer_auth(&caller.credential)
            .send()
            .await
            .expect("an answer")
    }

    /// Asks, and reads the answer to its end, or as far as it has to be read.
    pub(super) async fn ask(&self, caller: &Caller, protocol: Protocol) -> Heard {
        let mut response = self.begin(caller, protocol).await;
        let mut body = Vec::new();
        read(&mut response, &mut body, self.until.as_deref(), &self.name).await;
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        Heard {
            status: response.status().as_u16(),
            headers: headers.collect(),
            body,
        }
    }
}

/// Reads on until the body ends or `until` has come.
pub(super) async fn read(response: &mut Response, body: &mut Vec<u8>, until: Option<&str>, name: &str) {
    let reading = async {
        while let Some(chunk) = response.chunk().await.expect("a body") {
            body.extend_from_slice(&chunk);
            if until.is_some_and(|until| holds(body, until)) {
                break;
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(read.is_ok(), "{name} does not end, nor does {until:?} come");
}
