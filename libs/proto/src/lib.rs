//! What goes over the mesh's wires: code generated from `proto/`, and the descriptor set. Nothing else.
//!
//! A module is a package: [`auth::v1`] is `trailmesh.auth.v1`. Rules, HTTP mappings and comments are not in the generated types but in
//! [`DESCRIPTOR_SET`], from which the gateway's routes, the tables of who may call what, and the documentation are made.
//!
//! A message with a field marked `debug_redact`, or containing one that has it, prints its name only.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// Every file of `proto/` with its imports, options and comments: an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));

pub use trailmesh::*;

/// The packages, where the generated code looks for them.
mod trailmesh {
    pub mod agent {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.agent.v1.rs"));
        }
    }

    pub mod auth {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.auth.v1.rs"));
        }
    }

    pub mod change {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.change.v1.rs"));
        }
    }

    pub mod common {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.common.v1.rs"));
        }
    }

    pub mod policy {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.policy.v1.rs"));
        }
    }

    pub mod query {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.query.v1.rs"));
        }
    }

    pub mod recovery {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.recovery.v1.rs"));
        }
    }

    pub mod tenant {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.tenant.v1.rs"));
        }
    }

    pub mod vault {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/trailmesh.vault.v1.rs"));
        }
    }
}

pub mod google {
    pub mod api {
        include!(concat!(env!("OUT_DIR"), "/google.api.rs"));
    }
}

mod redacted {
    include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
}

#[cfg(test)]
mod tests {
    use crate::auth::v1::{LogInRequest, LogInResponse, Tokens};

    #[test]
    fn messages_with_secrets_do_not_print_them() {
        let request = LogInRequest {
            password: "hunter2-canary".into(),
            ..LogInRequest::default()
        };
        assert_eq!(format!("{request:?}"), "LogInRequest { *** }");
        let tokens = Tokens {
            access_token: "canary".into(),
            ..Tokens::default()
        };
        let response = LogInResponse {
            tokens: Some(tokens),
            ..LogInResponse::default()
        };
        assert_eq!(format!("{response:?}"), "LogInResponse { *** }");
    }
}
