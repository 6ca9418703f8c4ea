//! Test and demonstration tools inside the program: fault points, recordings, a mock relay.

pub mod fault;
pub mod mock_relay;
pub mod recording;
