//! A new migration has no line of Rust that changes, so cargo has to be told to look.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
