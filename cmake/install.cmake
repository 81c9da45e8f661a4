# What scripts/package puts into its archive: the binary, which looks for its libraries beside itself,
# the models, and the papers. The bundled libraries are scripts/package's own work.
include(GNUInstallDirs)

if(NOT APPLE)
  # RPATH, not RUNPATH: it also serves the libraries that the bundled libraries need.
  target_link_options(impetus PRIVATE -Wl,--disable-new-dtags)
  set_target_properties(impetus PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
endif()
install(TARGETS impetus RUNTIME DESTINATION bin COMPONENT impetus)
install(FILES LICENSE README.md DESTINATION share/doc/impetus COMPONENT impetus)
if(EXISTS ${PROJECT_SOURCE_DIR}/models)
  install(DIRECTORY models/ DESTINATION share/impetus/models COMPONENT impetus PATTERN recipe EXCLUDE)
endif()
