// Command prngdll writes bcryptprimitives.dll for a Wine that lacks it.
//
// Programs of Go ask Windows for random numbers by ProcessPrng of
// bcryptprimitives.dll, and don't start without it. Wine has it since version
// 9.15; Debian 12 has Wine 8. Windows' libraries may forward a function to
// another library, by name and without code, and advapi32.dll, which Wine has
// always had, exports the same function as SystemFunction036 (RtlGenRandom). So
// a library that is nothing but a header and that forwarder is all that is
// missing.
//
//	prngdll FILE
//
// What lives here: that file, byte by byte. What may not: anything that runs on
// a real Windows.
package main
