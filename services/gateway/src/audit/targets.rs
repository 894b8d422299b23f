//! Which ids a message names. Fields are found by descriptors at start, and of their values only those are taken that have the form of an id:
//! no name, no address and no secret can slip into the record.
use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};

use crate::json::{
    schema::{Field, Form, Kind, MessageId, Schema, Shape},
    wire::Reader,
};

/// Ids by the field that names them.
pub(crate) type Targets = BTreeMap<String, String>;

/// Of one message.
const MOST: usize = 16;
/// Of one field that has many.
const OF_FIELD: usize = 8;
/// How deep messages are looked into.
const DEPTH: usize = 3;
/// The same for an answer.
const ANSWER_DEPTH: usize = 2;
/// How a server, or an upload in its place, is called in the record.
const SERVER: &str = "server_id";
/// Metadata of an answer: which server a name meant.
const SERVER_ID: HeaderName = HeaderName::from_static("trailmesh-server-id");
/// What an id has after its prefix.
const DIGITS: usize = 26;

/// Where a message has ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids(Vec<Place>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    number: u32,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// An id, or several, by this name.
    Id(String),
    /// A message with ids.
    Inside(Ids),
}

impl Ids {
    /// Those of a request: every field named `…_id` or `…_ids`, and `id` of a message in it by the message's name.
    pub(crate) fn of_request(schema: &Schema, message: MessageId) -> Self {
        Self::of(schema, message, None, DEPTH, false)
    }

    /// Those of an answer: its own fields, and of messages in it `id` alone. They are what was made, not what that belongs to.
    pub(crate) fn of_answer(schema: &Schema, message: MessageId) -> Self {
        Self::of(schema, message, None, ANSWER_DEPTH, true)
    }

    fn of(schema: &Schema, message: MessageId, around: Option<&str>, depth: usize, own: bool) -> Self {
        let fields = schema.message(message).fields.iter();
        let places = fields.filter_map(|field| {
            let what = match field.kind {
                Kind::String if own && around.is_some() && field.name != "id" => return None,
                Kind::String => What::Id(name(field, around)?),
                Kind::Message(inner) if depth > 1 && is_plain(schema, field, inner) => {
                    let ids = Self::of(schema, inner, Some(&field.name), depth - 1, own);
                    What::Inside(Some(ids).filter(|ids| !ids.0.is_empty())?)
                }
                _ => return None,
            };
            Some(Place {
                number: field.number,
                what,
            })
        });
        Self(places.collect())
    }

    /// A server that a request named in another way, in the words of the service that found it.
    pub(crate) fn read_server(metadata: &HeaderMap, targets: &mut Targets) {
        if let Some(server) = metadata.get(SERVER_ID) {
            take(SERVER, server.as_bytes(), targets);
        }
    }

    /// Takes them out of an encoded message into `targets`. What was there stays; what cannot be read ends it.
    pub(crate) fn read(&self, message: &[u8], targets: &mut Targets) {
        let mut reader = Reader::new(message);
        while let Ok((number, wire_type)) = reader.key() {
            let Ok(value) = reader.value(wire_type) else {
                return;
            };
            let Some(place) = self.0.iter().find(|place| place.number == number) else {
                continue;
            };
            let Ok(bytes) = Reader::new(value).bytes() else {
                return;
            };
            match &place.what {
                What::Inside(ids) => ids.read(bytes, targets),
                What::Id(name) => take(name, bytes, targets),
            }
        }
    }
}

fn take(name: &str, value: &[u8], targets: &mut Targets) {
    let Some(id) = str::from_utf8(value).ok().filter(|text| is_id(text)) else {
        return;
    };
    // What is asked of a server can be asked of an uploaded log.
    let name = match name {
        SERVER if id.starts_with("upl_") => "upload_id",
        name => name,
    };
    if targets.len() >= MOST || targets.values().any(|known| known == id) {
        return;
    }
    let names = (1..=OF_FIELD).map(|place| match place {
        1 => name.to_owned(),
        place => format!("{name}.{place}"),
    });
    if let Some(free) = names.into_iter().find(|name| !targets.contains_key(name)) {
        targets.insert(free, id.to_owned());
    }
}

fn name(field: &Field, around: Option<&str>) -> Option<String> {
    match (field.shape, field.name.as_str(), around) {
        (Shape::Single, "id", Some(around)) => Some(format!("{around}_id")),
        (Shape::Single, "id", None) => Some("id".to_owned()),
        // An id or a name; only an id is taken.
        (Shape::Single, "server", None) => Some(SERVER.to_owned()),
        (Shape::Single, name, _) if name.ends_with("_id") => Some(name.to_owned()),
        (Shape::Repeated { .. }, name, _) if name.ends_with("_ids") => {
            name.strip_suffix('s').map(str::to_owned)
        }
        _ => None,
    }
}

fn is_plain(schema: &Schema, field: &Field, message: MessageId) -> bool {
    field.shape == Shape::Single && schema.message(message).form == Form::Plain
}

/// Three letters, an underscore, and 26 digits of base32.
fn is_id(text: &str) -> bool {
    let Some((prefix, digits)) = text.split_once('_') else {
        return false;
    };
    let digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() && !b"ilou".contains(&byte);
    prefix.len() == 3
        && prefix.bytes().all(|byte| byte.is_ascii_lowercase())
        && digits.len() == DIGITS
        && digits.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::tenant::v1 as pb;
    use types::{PoolId, ServerId};

    use super::{Ids, MOST, Targets, is_id};
    use crate::json::schema::Schema;

    fn ids(name: &str) -> (Ids, Ids) {
        let pool = prost_reflect::DescriptorPool::decode(proto::DESCRIPTOR_SET).expect("descriptors");
        let schema = Schema::new(&pool);
        let id = schema
            .id(&format!("trailmesh.tenant.v1.{name}"))
            .expect("a message");
        (Ids::of_request(&schema, id), Ids::of_answer(&schema, id))
    }

    fn read(ids: &Ids, message: &[u8]) -> Targets {
        let mut targets = Targets::new();
        ids.read(message, &mut targets);
        targets
    }

    #[test]
    fn a_request_names_what_it_is_about_and_nothing_else() {
        let (server, pool) = (ServerId::fresh().to_string(), PoolId::fresh().to_string());
        let request = pb::UpdateServerRequest {
            server: Some(pb::Server {
                id: server.clone(),
                pool_id: pool.clone(),
                name: server.clone(),
                ..pb::Server::default()
            }),
            ..pb::UpdateServerRequest::default()
        };
        let found = read(&ids("UpdateServerRequest").0, &request.encode_to_vec());
        let wanted = [("server_id", server), ("pool_id", pool)];
        assert_eq!(
            found,
            wanted
                .map(|(name, id)| (name.to_owned(), id))
                .into_iter()
                .collect()
        );
    }

    #[test]
    fn a_server_is_known_by_its_id_by_its_name_or_as_an_upload() {
        use proto::query::v1::QueryChangesRequest;

        let pool = prost_reflect::DescriptorPool::decode(proto::DESCRIPTOR_SET).expect("descriptors");
        let schema = Schema::new(&pool);
        let id = schema
            .id("trailmesh.query.v1.QueryChangesRequest")
            .expect("a message");
        let ids = Ids::of_request(&schema, id);
        let of = |server: &str| {
            let server = server.to_owned();
            let request = QueryChangesRequest {
                server,
                ..QueryChangesRequest::default()
            };
            read(&ids, &request.encode_to_vec())
        };
        let (server, upload) = (
            ServerId::fresh().to_string(),
            types::UploadId::fresh().to_string(),
        );
        assert_eq!(of(&server), [("server_id".to_owned(), server.clone())].into());
        assert_eq!(of(&upload), [("upload_id".to_owned(), upload)].into());
        let mut named = of("orders-primary");
        assert!(named.is_empty());
        for (said, known) in [("orders-primary", 0), (&*server, 1), (&*server, 1)] {
            let metadata = [("trailmesh-server-id", said)].map(|(name, said)| {
                (
                    http::HeaderName::from_static(name),
                    said.parse().expect("a value"),
                )
            });
            Ids::read_server(&metadata.into_iter().collect(), &mut named);
            assert_eq!(named.len(), known);
        }
        assert_eq!(named, [("server_id".to_owned(), server)].into());
    }

    #[test]
    fn an_answer_names_what_was_made_and_not_where() {
        let server = ServerId::fresh().to_string();
        let answer = pb::RegisterServerResponse {
            server: Some(pb::Server {
                id: server.clone(),
                pool_id: PoolId::fresh().to_string(),
                ..pb::Server::default()
            }),
        };
        let found = read(&ids("RegisterServerResponse").1, &answer.encode_to_vec());
        assert_eq!(found, [("server_id".to_owned(), server)].into());
    }

    #[test]
    fn what_is_no_id_by_its_form_is_not_taken_from_a_field_of_ids() {
        let of = |id: &str| {
            pb::GetServerRequest {
                server_id: id.to_owned(),
            }
            .encode_to_vec()
        };
        let ids = ids("GetServerRequest").0;
        assert_eq!(read(&ids, &of(&ServerId::fresh().to_string())).len(), 1);
        for bad in [
            "",
            "hunter2",
            "bt_live_0000000000000000000000000000000000",
            "srv_\u{661}",
        ] {
            assert!(read(&ids, &of(bad)).is_empty(), "{bad}");
        }
        let good = of(&ServerId::fresh().to_string());
        for cut in 0..good.len() {
            assert!(read(&ids, &good[..cut]).is_empty());
        }
        for bad in [
            "srv_0000000000000000000000000i",
            "SRV_00000000000000000000000000",
            "srv-x",
            "srv_",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn however_many_ids_a_message_has_few_are_taken() {
        let (ids, _) = ids("GetServerRequest");
        let mut message = Vec::new();
        for _ in 0..1_000 {
            let request = pb::GetServerRequest {
                server_id: ServerId::fresh().to_string(),
            };
            message.extend(request.encode_to_vec());
        }
        let found = read(&ids, &message);
        assert!((1..=MOST).contains(&found.len()), "{}", found.len());
    }
}
