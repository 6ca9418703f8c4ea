//! Tests proofs of commits: valid ones of the protocol's vectors, of production and of a simulated
//! network, and altered ones.

mod alterations;
mod lies;
mod network;
mod production;
mod reference_server;
mod support;
mod vectors;
