#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sip_forwarder_tests::fuzz::framing(data));
