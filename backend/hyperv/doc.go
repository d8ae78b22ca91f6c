// Package hyperv is the backend for Microsoft Hyper-V.
package hyperv
