// Package sm is the storage layer: drivers that lay volumes out on a medium, and what is written once over all
// of them. It speaks of storage repositories and volumes; which API object a volume stands for, and what it is
// called there, is the caller's business.
//
// The invariant: whatever call fails or is cut by a crash, every volume that existed before exists afterwards
// with its bytes, and after the next Attach nothing is left of a volume that was never returned.
//
// Start with Driver and SR in sm.go, which are the contract (package smtest checks it for every driver), then
// errors.go. Package all lists the drivers, file and iso are two of them, vhd is the image format.
package sm
